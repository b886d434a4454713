//! What a person typed, without what may be a password in it.
//!
//! Everything that shows what was typed or configured asks here first. What is read here and what is connected to are
//! taken apart in the same way (`uri::split`), so that nothing can be a host there and a password here. Where it is not
//! certain what the password is, too much is hidden, never too little: a URL without its scheme, with a misspelled one,
//! or with a password that nobody encoded is still one that a person meant.

use super::uri::{self, Parts, encoded};

/// What stands in the place of a secret.
const HIDDEN: &str = "***";
/// Names that hold one of these are names of secrets.
const SECRETS: [&str; 9] =
    ["password", "passwd", "pwd", "passphrase", "secret", "token", "apikey", "api_key", "sslkey"];
/// Parameters of URLs that are secrets under just this name.
const SECRET_PARAMETERS: [&str; 5] = ["pass", "pw", "key", "hexkey", "_pragma_key"];
/// What may stand before the scheme of a URL.
const BEFORE_SCHEME: [&str; 3] = ["jdbc:", "env:", "rest:"];

/// Returns a URL of any scheme, a connection string or what was meant for one, with `***` for each secret. Any other text
/// comes back as it is.
pub fn redact(text: &str) -> String {
    if let Some((scheme, rest)) = whole_url(text) {
        return format!("{scheme}://{}", address(rest));
    }
    if let Some((path, query)) = text.split_once('?').filter(|(path, _)| is_sqlite(path)) {
        return format!("{}?{}", login(path), parameters(query));
    }
    match secret_word(text) {
        // What follows is hidden too: who knows where the password ends.
        Some(end) => format!("{}={HIDDEN}", login(&text[..end])),
        None => login(text),
    }
}

/// Returns a message with `***` for each secret of the URLs and connection strings that are quoted in it.
pub fn redact_within(message: &str) -> String {
    if whole_url(message).is_some() {
        return redact(message);
    }
    let mut shown = String::with_capacity(message.len());
    let mut rest = message;
    loop {
        let found = rest.find("://");
        let start = found.map_or(rest.len(), |at| quotation(&rest[..at]).unwrap_or(scheme_start(rest, at)));
        let (before, behind) = rest.split_at(start);
        if let Some(end) = secret_words(before).filter(|end| !is_hidden(&before[*end..])).min() {
            return shown + &before[..end] + "=" + HIDDEN;
        }
        shown.push_str(before);
        if found.is_none() {
            return shown;
        }
        // A password may hold the quote too, so that the last one counts.
        let last = before.chars().next_back().filter(is_quote).and_then(|quote| behind.rfind(quote));
        let end = last.or_else(|| behind.find(|next: char| next.is_whitespace() || is_quote(&next)));
        let (url, after) = behind.split_at(end.unwrap_or(behind.len()));
        shown.push_str(&redact(url));
        rest = after;
    }
}

/// Says whether what follows the name of a secret is hidden already.
fn is_hidden(behind: &str) -> bool {
    let after = behind.trim_start().strip_prefix('=').and_then(|value| value.strip_prefix(HIDDEN));
    after.is_some_and(|after| {
        after.is_empty() || after.starts_with(|next: char| next.is_whitespace() || is_quote(&next))
    })
}

fn is_quote(character: &char) -> bool {
    matches!(character, '\'' | '"' | '`')
}

/// Returns where the quoted text begins that a text ends in.
fn quotation(text: &str) -> Option<usize> {
    let (at, quote) = text.char_indices().rfind(|(at, character)| {
        let is_first = text[..*at].chars().next_back().is_none_or(|before| !before.is_alphanumeric());
        is_quote(character) && is_first
    })?;
    (!text[at + 1..].contains(quote)).then_some(at + 1)
}

/// Splits a text that is a URL from begin to end.
fn whole_url(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let mut name = scheme.trim_start();
    while let Some(before) = BEFORE_SCHEME.iter().find(|before| starts_with(name, before)) {
        name = &name[before.len()..];
    }
    let is_scheme =
        name.starts_with(|first: char| first.is_ascii_alphabetic()) && name.chars().all(of_scheme);
    is_scheme.then_some((scheme, rest))
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

fn of_scheme(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '+' | '.' | '-')
}

/// Returns where the scheme begins that ends at a place.
fn scheme_start(text: &str, end: usize) -> usize {
    text[..end]
        .rfind(|character| !of_scheme(character) && character != ':')
        .map_or(0, |last| last + text[last..].chars().next().map_or(1, char::len_utf8))
}

/// Says whether what stands before the `?` is how SQLAlchemy, Prisma and others write a file of SQLite.
fn is_sqlite(path: &str) -> bool {
    let scheme = path.split(':').next().filter(|scheme| scheme.len() < path.len()).unwrap_or_default();
    starts_with(scheme, "sqlite") || scheme.eq_ignore_ascii_case("file")
}

/// Hides the password of what stands behind `//`.
fn address(rest: &str) -> String {
    match uri::split(rest).filter(|parts| !parts.hides_settings()) {
        Some(parts) => parts.redacted(),
        None if secret_word(&encoded::lossy(rest)).is_some() => HIDDEN.to_owned(),
        None => match (rest.find(':'), rest.rfind('@')) {
            (Some(colon), Some(at)) if colon < at => {
                format!("{}:{HIDDEN}@{}", &rest[..colon], &rest[at + 1..])
            }
            (Some(colon), None) => format!("{}:{HIDDEN}", &rest[..colon]),
            _ => rest.to_owned(),
        },
    }
}

/// Hides the password of `user:password@host`, also where a URL begins in the middle.
fn login(text: &str) -> String {
    let Some(colon) = text.find(':') else { return text.to_owned() };
    match text.rfind('@') {
        _ if is_url_at(text, colon) => {
            format!("{}{}", &text[..colon + 3], address(&text[colon + 3..]))
        }
        Some(at) if at > colon => format!("{}:{HIDDEN}@{}", &text[..colon], &text[at + 1..]),
        _ => text.to_owned(),
    }
}

/// Says whether a URL stands in a text, its scheme ending at a place.
fn is_url_at(text: &str, colon: usize) -> bool {
    let start = scheme_start(text, colon);
    let before = text[..start].chars().next_back();
    start < colon
        && text[colon..].starts_with("://")
        && before.is_none_or(|before| before.is_whitespace() || is_quote(&before) || "=(<".contains(before))
}

impl Parts<'_> {
    /// Says whether settings stand where none belong, as in `postgres://h/d password=x`.
    fn hides_settings(&self) -> bool {
        let places = [self.user.unwrap_or_default(), self.hosts, self.path.unwrap_or_default()];
        places.iter().any(|place| secret_word(&encoded::lossy(place)).is_some())
    }

    fn redacted(&self) -> String {
        let login = match (self.user, self.password) {
            (Some(user), Some("")) => format!("{user}:@"),
            (Some(user), Some(_)) => format!("{user}:{HIDDEN}@"),
            (Some(user), None) => format!("{user}@"),
            (None, _) => String::new(),
        };
        let hosts: Vec<String> = self.hosts.split(',').map(host).collect();
        let path = self.path.map(|path| format!("/{path}")).unwrap_or_default();
        let query = self.query.map(|query| format!("?{}", parameters(query))).unwrap_or_default();
        format!("{login}{}{path}{query}", hosts.join(","))
    }
}

/// Returns a host with its port. What is no port may be the password of a URL that ends there.
fn host(text: &str) -> String {
    let (name, port) = match text.rfind(']') {
        Some(end) => text.split_at(end + 1),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    match port.strip_prefix(':') {
        Some(digits) if !digits.bytes().all(|byte| byte.is_ascii_digit()) => format!("{name}:{HIDDEN}"),
        _ => text.to_owned(),
    }
}

/// Hides the secrets among the parameters of a URL.
fn parameters(query: &str) -> String {
    let mut was_secret = false;
    let shown = query.split('&').map(|parameter| {
        let Some((name, value)) = parameter.split_once('=') else {
            return if parameter.is_empty() { parameter.to_owned() } else { HIDDEN.to_owned() };
        };
        let plain = encoded::lossy(name);
        if is_secret(&plain) {
            was_secret = true;
            return format!("{name}={HIDDEN}");
        }
        let value = encoded::lossy(value);
        // An `&` in a password that nobody encoded begins another parameter, of a name that nobody knows.
        let is_of_secret = was_secret && !uri::is_parameter(&plain);
        let holds_url = value.contains("://") && value.contains('@');
        if is_of_secret || holds_url || secret_word(&value).is_some() {
            HIDDEN.to_owned()
        } else {
            parameter.to_owned()
        }
    });
    shown.collect::<Vec<_>>().join("&")
}

fn is_secret(name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase();
    SECRET_PARAMETERS.contains(&name.as_str()) || SECRETS.iter().any(|secret| name.contains(secret))
}

/// Returns where the first name of a secret ends that has a `=` behind it. What says where a secret is, as
/// `DBKEEP_PASSWORD_FILE=`, is none.
pub(super) fn secret_word(text: &str) -> Option<usize> {
    secret_words(text).min()
}

fn secret_words(text: &str) -> impl Iterator<Item = usize> {
    let lower = text.to_ascii_lowercase();
    SECRETS.iter().chain(&["pass"]).flat_map(move |secret| {
        let ends = lower.match_indices(secret).filter_map(|(start, _)| {
            let rest = &lower[start..];
            let length = rest.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(rest.len());
            let (name, behind) = rest.split_at(length);
            let is_place = name.ends_with("file") || name.ends_with("command");
            let is_whole = *secret != "pass" || name == "pass";
            (behind.trim_start().starts_with('=') && !is_place && is_whole).then_some(start + length)
        });
        ends.collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_in_every_form() {
        let cases = [
            ("postgres://u:p@h/d", "postgres://u:***@h/d"),
            ("POSTGRES://u:p@h:5432,[::1]:5433/d", "POSTGRES://u:***@h:5432,[::1]:5433/d"),
            ("postgres://u:p@ss/w@h/d", "postgres://u:***@h/d"),
            ("postgres://u:p?s#s:w@h/d", "postgres://u:***@h/d"),
            ("postgres://u:a?b@c?d/e#f@h:1/d?sslmode=require", "postgres://u:***@h:1/d?sslmode=require"),
            ("postgres://u:%70w@h/d", "postgres://u:***@h/d"),
            ("postgres://u@h/d", "postgres://u@h/d"),
            ("postgres://:pw@h/d", "postgres://:***@h/d"),
            ("postgres://u:pw", "postgres://u:***"),
            ("postgres://u:p w", "postgres://u:***"),
            ("postgres://h:5432/d", "postgres://h:5432/d"),
            (
                "postgresql+psycopg2://u@h/d?password=x&sslmode=require",
                "postgresql+psycopg2://u@h/d?password=***&sslmode=require",
            ),
            (
                "postgres://u@h/d?sslmode=require&pass%77ord=x",
                "postgres://u@h/d?sslmode=require&pass%77ord=***",
            ),
            ("postgres://u@h/d?password=a&b=c&port=1", "postgres://u@h/d?password=***&***&port=1"),
            ("postgres://u@h?password=a@b", "postgres://***"),
            ("postgres://h:1?user=u&password=a@b", "postgres://***"),
            ("postgres://h/d?user=bob@srv&password=x", "postgres://h/d?user=bob@srv&password=***"),
            ("postgres://h/d password=x", "postgres://***"),
            ("postgres://h/d?api_key=abc", "postgres://h/d?api_key=***"),
            (
                "prisma+postgres://accelerate.example/?api_key=abc",
                "prisma+postgres://accelerate.example/?api_key=***",
            ),
            ("jdbc:postgresql://h/d?user=u&password=x", "jdbc:postgresql://h/d?user=u&password=***"),
            ("jdbc:postgresql:d?user=u&password=x", "jdbc:postgresql:d?user=u&password=***"),
            ("mysql://u:p@h/d", "mysql://u:***@h/d"),
            ("rest:https://u:p@h:8000/x", "rest:https://u:***@h:8000/x"),
            ("sqlite+pysqlcipher://:p@/app.db?cipher=aes", "sqlite+pysqlcipher://:***@/app.db?cipher=aes"),
            ("file:app.db?_pragma_key=x&mode=ro", "file:app.db?_pragma_key=***&***"),
            ("\"postgres://u:p@h/d\"", "\"postgres://u:***@h/d\""),
            ("\"postgres://u:p", "\"postgres://u:***"),
            ("postgres//u:p@h/d", "postgres//u:***@h/d"),
            ("postgres:u:p@h/d", "postgres:***@h/d"),
            ("u:p@h/d", "u:***@h/d"),
            ("u:p://q@h/d", "u:***@h/d"),
            ("env:postgres://u:p@h/d", "env:postgres://u:***@h/d"),
            (" postgres://u:p@h/d ", " postgres://u:***@h/d "),
            ("host=h password='a b' user=u", "host=h password=***"),
            ("password=a\\'b host=h", "password=***"),
            ("application_name=x PassWord \t= x", "application_name=x PassWord=***"),
            ("dbname=postgres://u:p@h/d", "dbname=postgres://u:***@h/d"),
            ("Server=h;Port=1;Pwd=x;User Id=u", "Server=h;Port=1;Pwd=***"),
            ("app.db", "app.db"),
            ("data/10:00.db", "data/10:00.db"),
            ("a@b:c", "a@b:c"),
            ("DBKEEP_PASSWORD_FILE=x", "DBKEEP_PASSWORD_FILE=x"),
            ("", ""),
        ];
        for (text, shown) in cases {
            assert_eq!(redact(text), shown, "{text}");
            assert_eq!(redact(shown), shown, "what is redacted stays as it is");
        }
    }

    #[test]
    fn messages_keep_all_but_secrets() {
        let cases = [
            ("see https://host/a@b and c", "see https://host/a@b and c"),
            ("no url a:b@c", "no url a:b@c"),
            ("two http://a:b@c 'http://d:e@f'", "two http://a:***@c 'http://d:***@f'"),
            ("odd 'postgres://u:a'b c@h/d' found", "odd 'postgres://u:***@h/d' found"),
            ("odd 'jdbc:postgres://u:a'b@h/d' found", "odd 'jdbc:postgres://u:***@h/d' found"),
            ("odd 'host=h password=x' found", "odd 'host=h password=***"),
            ("postgres://u:a b'c@h/d", "postgres://u:***@h/d"),
            ("password-file = \"x\"", "password-file = \"x\""),
            ("host=h password=*** leads there", "host=h password=*** leads there"),
            ("password=*** and password=x", "password=*** and password=***"),
        ];
        for (message, shown) in cases {
            assert_eq!(redact_within(message), shown);
        }
    }
}
