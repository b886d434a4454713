//! Questions to a person. Asked only on a terminal; the callers make sure of that.

use inquire::validator::ValueRequiredValidator;
use inquire::{InquireError, Password, PasswordDisplayMode, Select, Text};

use crate::exit::Failure;
use crate::human;

/// Asks for the password of an existing repository; it is not shown while typed.
pub(crate) fn password(location: &str) -> Result<String, Failure> {
    let question = format!("Password of {}:", human::visible(location));
    Password::new(&question)
        .with_display_mode(PasswordDisplayMode::Hidden)
        .without_confirmation()
        .prompt()
        .map_err(|error| ended(&error))
}

/// Asks for a new password, twice.
pub(crate) fn new_password() -> Result<String, Failure> {
    Password::new("New password:")
        .with_display_mode(PasswordDisplayMode::Hidden)
        .with_custom_confirmation_message("The same again:")
        .with_custom_confirmation_error_message("these are not the same")
        .with_validator(ValueRequiredValidator::new("a password cannot be empty"))
        .prompt()
        .map_err(|error| ended(&error))
}

/// Has the person type `name` to confirm that `what` may happen.
pub(crate) fn typed_confirmation(what: &str, name: &str) -> Result<(), Failure> {
    let shown = human::visible(name).into_owned();
    let question = format!("{what} Type {shown} to go on:");
    let typed = Text::new(&question).prompt().map_err(|error| ended(&error))?;
    // A name with control characters cannot be typed; what is shown for it can.
    if typed.trim() == name || typed.trim() == shown {
        return Ok(());
    }
    Err(Failure::usage(
        format!("{:?} is not {shown:?}, so nothing was changed", typed.trim()),
        "type the name exactly as it is shown, or give --yes",
    ))
}

/// Lets the person choose one of `rows`; returns its position.
pub(crate) fn choice(question: &str, rows: Vec<String>) -> Result<usize, Failure> {
    let rows = rows.into_iter().map(|row| human::visible(&row).into_owned()).collect();
    Select::new(question, rows)
        .with_page_size(15)
        .raw_prompt()
        .map(|chosen| chosen.index)
        .map_err(|error| ended(&error))
}

fn ended(error: &InquireError) -> Failure {
    match error {
        InquireError::OperationCanceled | InquireError::OperationInterrupted => Failure::interrupted(),
        other => Failure::usage(
            format!("could not ask on this terminal: {other}"),
            "give the answer on the command line; --help has the options",
        ),
    }
}
