//! Wrong usage in our own form: one sentence, a hint, exit code 2.

use clap::error::ErrorKind;

use crate::args;
use crate::exit::Failure;
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
    Failure::usage(redacted(&message), redacted(&hints.join("; ")))
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

/// Replaces the password of every URL in `text` by stars.
///
/// The parser quotes what was typed, and a URL with a password may be part of it.
pub(crate) fn redacted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        shown.push_str(before);
        let end =
            after.find(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`')).unwrap_or(after.len());
        let (url, remainder) = after.split_at(end);
        shown.push_str(&without_password(url));
        rest = remainder;
    }
    shown.push_str(rest);
    shown
}

/// Warns of a word of the command line that holds a URL with a password. The hint says how to do without.
pub(crate) fn warn_of_password(output: &Output, word: &str, hint: &str) {
    if redacted(word) != word {
        output.warn("a password on the command line can be seen by other users of this machine", Some(hint));
    }
}

/// Redacts what stands between `//` and the path: `user:password@host`, and `?password=…` behind it.
fn without_password(url: &str) -> String {
    let authority_end = url.find(['/', '?', '#']).unwrap_or(url.len());
    // A password may itself hold an unescaped `@` or `/`: the last `@` before the query decides.
    let query = url.find('?').unwrap_or(url.len());
    let mut shown = String::new();
    let mut rest = url;
    let at = url[..query].rfind('@').filter(|at| *at < authority_end || url[..*at].contains(':'));
    if let Some(at) = at {
        match url[..at].split_once(':') {
            Some((user, _)) => shown.push_str(&format!("{user}:***")),
            None => shown.push_str(&url[..at]),
        }
        rest = &url[at..];
    }
    let Some((path, parameters)) = rest.split_once('?') else { return shown + rest };
    let parameters: Vec<String> = parameters
        .split('&')
        .map(|parameter| match parameter.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}=***"),
            _ => parameter.to_owned(),
        })
        .collect();
    format!("{shown}{path}?{}", parameters.join("&"))
}

fn is_secret(parameter: &str) -> bool {
    let name = parameter.to_ascii_lowercase();
    ["password", "passwd", "pwd", "secret", "token", "apikey", "sslkey"]
        .iter()
        .any(|word| name.contains(word))
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
    fn redaction_knows_the_forms_of_urls() {
        for (url, shown) in [
            ("postgres://ada:pw@host:5432/db", "postgres://ada:***@host:5432/db"),
            ("postgres://ada:p@w/x@host/db", "postgres://ada:***@host/db"),
            ("postgres://:pw@host/db", "postgres://:***@host/db"),
            ("postgres://ada@host/db", "postgres://ada@host/db"),
            ("postgres://host/db?user=a&password=pw&x=1", "postgres://host/db?user=a&password=***&x=1"),
            ("see https://host/a@b and c", "see https://host/a@b and c"),
            ("no url a:b@c", "no url a:b@c"),
            ("two http://a:b@c 'http://d:e@f'", "two http://a:***@c 'http://d:***@f'"),
        ] {
            assert_eq!(redacted(url), shown);
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
