//! Wrong usage in our own form: one sentence, a hint, exit code 2.

use std::path::Path;

use clap::error::ErrorKind;
use dbkeep_engine::{redact, redact_within};

use crate::args;
use crate::exit::Failure;
use crate::human;
use crate::output::Output;

/// What the parser has to say that is no command to run.
pub(crate) enum Answer {
    /// A text that was asked for: help or the version.
    Text(String),
    /// The line makes no sense.
    Wrong(Failure),
}

/// Turns the parser's answer into ours. `line` is what was typed, the program's name included.
pub(crate) fn answer(error: &clap::Error, line: &[String]) -> Answer {
    let text = error.render().to_string();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Answer::Text(text),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            let help = help_command(line);
            Answer::Wrong(Failure::usage("a command is missing", format!("`{help}` lists the commands")))
        }
        _ => Answer::Wrong(wrong(&text, line)),
    }
}

/// Says whether `--json` stands in the line, so that even a line that cannot be parsed gets its document.
pub(crate) fn asks_for_json(line: &[String]) -> bool {
    options(line).any(|word| word == "--json")
}

/// Says whether `--progress=json` stands in the line.
pub(crate) fn asks_for_events(line: &[String]) -> bool {
    let words: Vec<&String> = options(line).collect();
    words.iter().any(|word| *word == "--progress=json")
        || words.windows(2).any(|pair| pair[0] == "--progress" && pair[1] == "json")
}

fn options(line: &[String]) -> impl Iterator<Item = &String> {
    line.iter().skip(1).take_while(|word| *word != "--")
}

/// Splits the parser's text: the first paragraph says what is wrong, `tip:` lines help.
fn wrong(text: &str, line: &[String]) -> Failure {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let message =
        text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ");
    let mut hints: Vec<String> =
        text.lines().filter_map(|line| line.trim().strip_prefix("tip: ")).map(str::to_owned).collect();
    hints.push(format!("see `{} --help`", command_words(line)));
    Failure::usage(without_typed(&message, line), without_typed(&hints.join("; "), line))
}

/// Says whether the line is one of `dbkeep guard`.
pub(crate) fn is_guard(line: &[String]) -> bool {
    command_words(line) == "dbkeep guard"
}

/// Returns the words of the line that name a command, as `dbkeep key add`.
fn command_words(line: &[String]) -> String {
    let mut words = vec!["dbkeep".to_owned()];
    let mut command = args::definition();
    for word in options(line) {
        if let Some(below) = command.find_subcommand(word).cloned() {
            words.push(word.clone());
            command = below;
        }
    }
    words.join(" ")
}

fn help_command(line: &[String]) -> String {
    format!("{} --help", command_words(line))
}

/// Returns a text without the secrets of the words that were typed, wherever it repeats one of them, and without those of
/// other URLs in it. `line` is what was typed.
pub(crate) fn without_typed(text: &str, line: &[String]) -> String {
    let values = line.iter().skip(1).filter_map(|word| word.split_once('=').map(|(_, value)| value));
    let words = line.iter().skip(1).map(String::as_str).chain(values);
    let shown = words.fold(text.to_owned(), |text, word| {
        let hidden = redact(word);
        if hidden == word {
            return text;
        }
        // As it was typed, and as errors quote it.
        let debug = |word: &str| format!("{word:?}").trim_matches('"').to_owned();
        let printable = |word: &str| human::visible(word).to_string();
        text.replace(word, &hidden)
            .replace(&debug(word), &debug(&hidden))
            .replace(&printable(word), &printable(&hidden))
    });
    redact_within(&shown)
}

/// Warns of a word of the command line that holds a URL with a password. The hint says how to do without.
pub(crate) fn warn_of_password(output: &Output, word: &str, hint: &str) {
    // A file may be called like that.
    if redact(word) != word && !Path::new(word).exists() {
        output.warn("a password on the command line can be seen by other users of this machine", Some(hint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(line: &[&str]) -> Failure {
        let line: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();
        let error = args::definition().try_get_matches_from(&line).unwrap_err();
        match answer(&error, &line) {
            Answer::Wrong(failure) => failure,
            Answer::Text(text) => panic!("{text}"),
        }
    }

    #[test]
    fn mistyped_option_is_one_sentence_with_the_near_one() {
        let failure = failure(&["dbkeep", "backup", "--compresion", "3"]);
        assert_eq!(failure.message, "unexpected argument '--compresion' found");
        assert_eq!(
            failure.hint.as_deref(),
            Some("a similar argument exists: '--compression'; see `dbkeep backup --help`")
        );
    }

    #[test]
    fn missing_argument_names_it_on_one_line() {
        let failure = failure(&["dbkeep", "--json", "key", "remove"]);
        assert_eq!(failure.message, "the following required arguments were not provided: <KEY>");
        assert_eq!(failure.hint.as_deref(), Some("see `dbkeep key remove --help`"));
    }

    #[test]
    fn missing_command_says_so() {
        assert_eq!(failure(&["dbkeep"]).message, "a command is missing");
        assert_eq!(
            failure(&["dbkeep", "key"]).hint.as_deref(),
            Some("`dbkeep key --help` lists the commands")
        );
    }

    #[test]
    fn password_in_a_url_is_never_repeated() {
        let failure = failure(&["dbkeep", "list", "postgres://ada:hunter2@host/db"]);
        assert_eq!(failure.message, "unexpected argument 'postgres://ada:***@host/db' found");
    }

    #[test]
    fn words_that_were_typed_are_repeated_without_their_secrets() {
        let urls = ["host=h user=u password='s3cr et9x'", "postgres://u:s3cr'et9x\\\n@h/d", "u:s3cr\"et9x@h"];
        for url in urls {
            for words in [vec!["list", url], vec!["show", url, url], vec!["list", "--last", url]] {
                let failure = failure(&[&["dbkeep"], words.as_slice()].concat());
                let text = format!("{} {:?}", failure.message, failure.hint);
                assert!(!text.contains("s3cr") && !text.contains("et9x"), "{text}");
            }
            let failure = failure(&["dbkeep", "list", &format!("--last={url}")]);
            assert!(
                !failure.message.contains("s3cr") && !failure.message.contains("et9x"),
                "{}",
                failure.message
            );
            let line = ["dbkeep".to_owned(), url.to_owned()];
            for text in [format!("no file /x/{url}"), format!("no snapshot {url:?}")] {
                let shown = without_typed(&text, &line);
                assert!(
                    !shown.contains("s3cr") && !shown.contains("et9x") && shown.contains("***"),
                    "{shown}"
                );
            }
        }
    }

    #[test]
    fn json_is_seen_even_where_the_rest_is_wrong() {
        let line = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        assert!(asks_for_json(&line(&["dbkeep", "bogus", "--json"])));
        assert!(!asks_for_json(&line(&["dbkeep", "backup", "--", "--json"])));
        assert!(asks_for_events(&line(&["dbkeep", "--progress", "json", "list"])));
        assert!(asks_for_events(&line(&["dbkeep", "list", "--progress=json"])));
        assert!(!asks_for_events(&line(&["dbkeep", "list", "--progress=none"])));
    }
}
