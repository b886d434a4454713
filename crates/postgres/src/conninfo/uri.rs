//! Connection URLs: libpq's, and what SQLAlchemy, Prisma, JDBC and others make of them.

use std::collections::BTreeMap;

use super::{ConnInfoError, Settings};

/// The schemes before any `+driver`, with the host of the URL after `//`.
const SCHEMES: [&str; 3] = ["postgresql", "postgres", "prisma+postgres"];

/// What to do about a password that nobody encoded.
pub(super) const ENCODING: &str = "in a URL, a `/`, `:`, `@`, `?`, `#`, `&` or `%` of a password is written as %2F, %3A, %40, %3F, %23, %26, %25; \
     so is a `@` in the name of a database";

/// Parameters that libraries put into URLs and that concern their own pools and caches only.
const OF_LIBRARIES: [&str; 20] = [
    "connection_limit",
    "pool_timeout",
    "socket_timeout",
    "statement_cache_size",
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
    "prepared_threshold",
    "max_cached_statement_lifetime",
    "max_cacheable_statement_size",
    "async_fallback",
    "uselibpqcompat",
    "pool",
    "pool_size",
    "max_overflow",
    "pool_recycle",
    "pool_pre_ping",
    "single_use_connections",
    "command_timeout",
    "reconnect",
    "supa",
];

/// Returns whether a text is a URL of PostgreSQL.
pub(super) fn is_url(text: &str) -> bool {
    split_scheme(text).is_some()
}

/// Returns what stands after the scheme and `//`.
fn split_scheme(text: &str) -> Option<&str> {
    let text = strip_prefix_ignoring_case(text, "jdbc:").unwrap_or(text);
    let (scheme, rest) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let engine = scheme.split('+').next().unwrap_or_default();
    SCHEMES.iter().any(|known| engine == *known || scheme == *known).then_some(rest)
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// The parts of what stands behind `//`, as they are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts<'a> {
    pub(super) user: Option<&'a str>,
    pub(super) password: Option<&'a str>,
    pub(super) hosts: &'a str,
    /// Without its `/`; with it, it is there even when it is empty.
    pub(super) path: Option<&'a str>,
    pub(super) query: Option<&'a str>,
}

/// Takes apart what stands behind `//`; `None` where it is not certain where the password ends.
///
/// As in libpq, a `@` before the first `/` ends user and password, in which `:`, `?` and `#` need not be encoded. A host
/// holds no `@`, so it is the last one.
pub(super) fn split(rest: &str) -> Option<Parts<'_>> {
    let authority = rest.split('/').next().unwrap_or_default();
    let (login, behind) = match authority.rfind('@') {
        Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
        None => (None, rest),
    };
    let (place, query) = cut(behind, '?');
    let (hosts, path) = cut(place, '/');
    let (user, password) = login.map_or((None, None), |login| {
        let (user, password) = cut(login, ':');
        (Some(user), password)
    });
    let parts = Parts { user, password, hosts, path, query };
    (!login.is_some_and(has_query) && parts.is_certain()).then_some(parts)
}

fn cut(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, behind)| (before, Some(behind)))
}

/// Says whether what may be a user and a password is hosts and parameters as well, as in `u@h?password=a@b`.
fn has_query(login: &str) -> bool {
    let Some((before, query)) = login.split_once('?') else { return false };
    !before.contains(':')
        || login.find('@').is_some_and(|at| login[at..].contains('?'))
        || query
            .split('&')
            .filter_map(|parameter| parameter.split_once('='))
            .any(|(name, _)| is_parameter(&encoded::lossy(name)))
}

impl Parts<'_> {
    fn is_certain(&self) -> bool {
        let is_odd = |character: char| character.is_whitespace() || "@&=#\"'\\<>^`{|}".contains(character);
        let is_known = |query: &str| {
            query.split('&').filter(|parameter| !parameter.is_empty()).all(|parameter| {
                parameter.split_once('=').is_some_and(|(name, _)| is_parameter(&encoded::lossy(name)))
            })
        };
        !self.hosts.contains(is_odd)
            && !self.path.is_some_and(|path| path.contains('@'))
            && !self.query.is_some_and(|query| query.contains('@') && !is_known(query))
    }
}

/// Says whether a parameter of a URL is known, whoever knows it.
pub(super) fn is_parameter(name: &str) -> bool {
    let others = ["schema", "currentSchema", "pgbouncer", "sslaccept", "ssl", "database"];
    super::is_setting(name)
        || others.contains(&name)
        || OF_LIBRARIES.contains(&name)
        || name.starts_with("pool_")
}

/// Reads a URL.
pub(super) fn parse(text: &str) -> Result<Settings, ConnInfoError> {
    let rest = split_scheme(text).ok_or_else(|| ConnInfoError::new("this is no URL of PostgreSQL"))?;
    let parts = split(rest).ok_or_else(|| {
        ConnInfoError::new("it is not certain where the password of the URL ends").with_hint(ENCODING)
    })?;
    let mut settings = Settings::default();
    settings.set_unless_empty("user", decode(parts.user.unwrap_or_default())?);
    settings.set_unless_empty("password", decode(parts.password.unwrap_or_default())?);
    settings.is_password_apart = parts.password.is_some();
    read_hosts(parts.hosts, &mut settings)?;
    settings.set_unless_empty("dbname", decode(parts.path.unwrap_or_default())?);
    let parameters = parts.query.unwrap_or_default().split('&');
    for parameter in parameters.filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or_else(|| without_value(parameter))?;
        read_parameter(&decode(name)?, decode(value)?, &mut settings)?;
    }
    Ok(settings)
}

/// What has no value and is no name of a parameter is not shown: it may be the end of a password.
fn without_value(parameter: &str) -> ConnInfoError {
    match is_parameter(parameter) {
        true => ConnInfoError::new(format!("the parameter {parameter:?} of the URL has no value")),
        false => ConnInfoError::new("a parameter of the URL has no value").with_hint(ENCODING),
    }
}

/// Reads `host:port,[::1]:port`.
fn read_hosts(text: &str, settings: &mut Settings) -> Result<(), ConnInfoError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for one in text.split(',') {
        let (host, port) = match one.strip_prefix('[') {
            Some(inner) => {
                let (host, rest) = inner
                    .split_once(']')
                    .ok_or_else(|| ConnInfoError::new("an IPv6 address in the URL lacks its `]`"))?;
                let port = rest.strip_prefix(':');
                if port.is_none() && !rest.is_empty() {
                    return Err(ConnInfoError::new("only a port may follow the `]` of an IPv6 address"));
                }
                (host, port.unwrap_or_default())
            }
            None => one.split_once(':').unwrap_or((one, "")),
        };
        hosts.push(decode(host)?);
        ports.push(port.to_owned());
    }
    settings.set_unless_empty("host", hosts.join(","));
    if ports.iter().any(|port| !port.is_empty()) {
        settings.set("port", ports.join(","));
    }
    Ok(())
}

/// Reads a parameter, in libpq's words or in those of a library.
fn read_parameter(name: &str, value: String, settings: &mut Settings) -> Result<(), ConnInfoError> {
    match name {
        // Prisma and JDBC: the schema that the application means.
        "schema" | "currentSchema" => settings.schema = Some(value),
        "pgbouncer" => settings.pooled = is_true(&value),
        "sslaccept" => {
            let mode = if value == "strict" { "verify-full" } else { "require" };
            settings.values.entry("sslmode").or_insert_with(|| mode.to_owned());
        }
        // JDBC and asyncpg.
        "ssl" if is_true(&value) => settings.set("sslmode", "require".to_owned()),
        "ssl" if value.eq_ignore_ascii_case("false") => settings.set("sslmode", "disable".to_owned()),
        "ssl" => settings.set("sslmode", value),
        // node-postgres.
        "sslmode" if value == "no-verify" => settings.set("sslmode", "require".to_owned()),
        "database" => settings.set("dbname", value),
        "password" => {
            settings.is_password_apart = false;
            settings.set("password", value);
        }
        _ if OF_LIBRARIES.contains(&name) || name.starts_with("pool_") => {}
        _ => settings.set_known(name, value)?,
    }
    Ok(())
}

fn is_true(value: &str) -> bool {
    ["true", "1", "yes", "on"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

/// Text as it stands in a URL.
pub(super) mod encoded {
    /// Replaces `%41` by what it stands for; what is none stays. For looking at, not for use.
    pub(in crate::conninfo) fn lossy(text: &str) -> String {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let byte =
                digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| first == b'%');
            bytes.push(byte.unwrap_or(first));
            rest = if byte.is_some() { &after[2..] } else { after };
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Replaces `%41` by what it stands for.
fn decode(text: &str) -> Result<String, ConnInfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|byte| *byte != 0);
        // The text is not shown: it may be the password.
        bytes.push(byte.ok_or_else(|| {
            ConnInfoError::new("a `%` in the URL is not followed by two hexadecimal digits")
                .with_hint("write a `%` of a user name or password as %25")
        })?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| ConnInfoError::new("the URL decodes to something that is no UTF-8"))
}

impl Settings {
    fn set_unless_empty(&mut self, name: &'static str, value: String) {
        if !value.is_empty() {
            self.set(name, value);
        }
    }
}

/// Returns a URL without its password and with nothing that is a secret, for people.
pub(super) fn describe(values: &BTreeMap<&'static str, String>) -> String {
    let get = |name: &str| values.get(name).map_or("", String::as_str);
    let hosts: Vec<&str> = get("host").split(',').collect();
    let ports: Vec<&str> = get("port").split(',').collect();
    let place = |(number, host): (usize, &&str)| {
        let port = ports.get(number).or(ports.last()).copied().unwrap_or_default();
        let host =
            if host.contains(':') && !host.starts_with('/') { format!("[{host}]") } else { encode(host) };
        if port.is_empty() { host } else { format!("{host}:{port}") }
    };
    let hosts: Vec<String> = hosts.iter().enumerate().map(place).collect();
    format!("postgresql://{}@{}/{}", encode(get("user")), hosts.join(","), encode(get("dbname")))
}

/// Encodes what has a meaning of its own in a URL.
pub(super) fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if plain(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        encoded
    })
}
