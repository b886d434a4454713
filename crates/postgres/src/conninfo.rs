//! How a database is reached: what libpq reads from URLs, connection strings, the environment and its files.
//!
//! Pure but for the files of services and passwords. The order of precedence is libpq's: what is said in the string,
//! then the service, then the environment, then what is usual. What libpq would take for a wish about security and is
//! not supported here is an error, never left out in silence.
//!
//! Source: the chapter "Database Connection Control Functions" of PostgreSQL's manual.

mod files;
mod keyvalue;
mod redact;
#[cfg(test)]
mod tests;
mod uri;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

pub use redact::{redact, redact_within};

/// The settings of a connection that have a meaning here, with the variable of the environment that gives each.
const KNOWN: [(&str, &str); 27] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("service", "PGSERVICE"),
    ("servicefile", "PGSERVICEFILE"),
    ("options", "PGOPTIONS"),
    ("application_name", "PGAPPNAME"),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslcrl", "PGSSLCRL"),
    ("sslsni", "PGSSLSNI"),
    ("requirepeer", "PGREQUIREPEER"),
    ("gssencmode", "PGGSSENCMODE"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("require_auth", "PGREQUIREAUTH"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
];

/// Settings of libpq that change nothing here: what we always do ourselves, or what cannot weaken a connection.
const WITHOUT_EFFECT: [&str; 19] = [
    "client_encoding",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "sslcompression",
    "sslcertmode",
    "sslpassword",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "min_protocol_version",
    "max_protocol_version",
    "sslkeylogfile",
    "oauth_issuer",
    "oauth_client_id",
    "oauth_scope",
];

/// Where servers of this system put their sockets.
const SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
const DEFAULT_PORT: u16 = 5432;

/// Says whether a word is a setting of libpq, of those that are not supported too.
fn is_setting(word: &str) -> bool {
    KNOWN.iter().any(|(known, _)| *known == word)
        || WITHOUT_EFFECT.contains(&word)
        || ["requiressl", "replication", "sslcrldir"].contains(&word)
}

/// Says whether a text begins as a connection string does: with a setting of libpq and a `=`.
pub fn begins_with_setting(text: &str) -> bool {
    text.split_once('=').is_some_and(|(word, _)| is_setting(word.trim()))
}

/// Returns a word of a connection string as an error shows it: as it is only where it can be no part of anything else.
fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "_-.".contains(character);
    match word.len() <= 63 && word.chars().all(is_plain) {
        true => format!("{word:?}"),
        false => "something else".to_owned(),
    }
}

/// Why a connection string says nothing usable. Its text never holds a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ConnInfoError {
    what: String,
    hint: Option<String>,
}

impl ConnInfoError {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns what to do.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// A password: wiped from memory when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Returns the text. The caller prints and stores it nowhere.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

/// What surrounds a connection string: the environment, the home, the user of the system.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Returns a variable of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The home of the user.
    pub home: Option<&'a Path>,
    /// The name of the user of the system.
    pub user: Option<&'a str>,
}

impl Surroundings<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }
}

/// How a database is reached.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// Where servers may be, in the order in which they are tried.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// How the connection is protected.
    pub tls: Tls,
    /// Whether the login has to be bound to the TLS connection.
    pub channel_binding: ChannelBinding,
    /// How long one host is waited for.
    pub connect_timeout: Option<Duration>,
    /// What is sent to the server as its command line.
    pub options: Option<String>,
    /// What the connection calls itself.
    pub application_name: Option<String>,
    /// Which of several servers is meant.
    pub target: Target,
    /// The schema that a library's URL names.
    pub schema: Option<String>,
    /// Whether the URL says that a pooler answers.
    pub pooled: bool,
    shown: String,
}

/// One place where a server may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The address.
    pub address: Address,
    /// The port.
    pub port: u16,
    /// The password for it.
    pub password: Option<Password>,
}

impl Host {
    /// Returns it for people: the name and the port, or the socket.
    pub fn place(&self) -> String {
        match &self.address {
            Address::Network { name, .. } => format!("{name}:{}", self.port),
            Address::Socket(folder) => format!("{}/.s.PGSQL.{}", folder.display(), self.port),
        }
    }
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A name or an address of the network.
    Network {
        /// The name, which a certificate must have.
        name: String,
        /// The address, where it need not be looked up.
        address: Option<IpAddr>,
    },
    /// The folder of a Unix socket.
    Socket(PathBuf),
}

/// How a connection is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// How much.
    pub mode: TlsMode,
    /// Which certificates are trusted.
    pub roots: Roots,
    /// Our own certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Whether TLS begins without asking the server (PostgreSQL 17).
    pub direct: bool,
    /// Whether the name of the host is sent.
    pub server_name: bool,
    /// Whether TLS 1.3 is asked for.
    pub only_1_3: bool,
}

/// The values of `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// When the server refuses to go without.
    Allow,
    /// When the server can.
    Prefer,
    /// Always, with whatever certificate.
    Require,
    /// Always, with a certificate that a trusted one signed.
    VerifyCa,
    /// The same, and with the name of the host.
    VerifyFull,
}

/// Which certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// None are known.
    None,
    /// Those in a file.
    File(PathBuf),
    /// Those of the system.
    System,
}

/// The values of `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where both sides can.
    Prefer,
    /// Always.
    Require,
}

/// The values of `target_session_attrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whoever answers first.
    Any,
    /// One that takes writes.
    ReadWrite,
    /// One that takes none.
    ReadOnly,
    /// One that is no standby.
    Primary,
    /// A standby.
    Standby,
    /// A standby if there is one.
    PreferStandby,
}

/// What was said about a connection, and no more.
#[derive(Default)]
struct Settings {
    values: BTreeMap<&'static str, String>,
    schema: Option<String>,
    pooled: bool,
    /// Whether the password stands where its end is certain: before the `@` of a URL, on a line of its own.
    is_password_apart: bool,
}

impl Settings {
    fn set(&mut self, name: &'static str, value: String) {
        self.values.insert(name, value);
    }

    /// Takes a setting of libpq; others are an error.
    fn set_known(&mut self, name: &str, value: String) -> Result<(), ConnInfoError> {
        if let Some((known, _)) = KNOWN.iter().find(|(known, _)| *known == name) {
            self.set(known, value);
            return Ok(());
        }
        if WITHOUT_EFFECT.contains(&name) {
            return Ok(());
        }
        if name == "requiressl" {
            // The word that `sslmode` replaced.
            if value == "1" {
                self.values.entry("sslmode").or_insert_with(|| "require".to_owned());
            }
            return Ok(());
        }
        let is_plain = |character: char| character.is_ascii_alphanumeric() || character == '_';
        // What follows a password may be its end, which holds a space or an `&` that nobody quoted.
        let holds_secret = |value: &String| value.contains("://") || redact::secret_word(value).is_some();
        let may_be_secret = self.values.contains_key("password") && !self.is_password_apart
            || self.values.values().any(holds_secret);
        Err(match name {
            "replication" | "sslcrldir" => {
                ConnInfoError::new(format!("the connection setting {name:?} is not supported"))
            }
            _ if may_be_secret || !name.chars().all(is_plain) => ConnInfoError::new(
                "a word before a `=` is no connection setting",
            )
            .with_hint(
                "values with spaces stand in single quotes; in a URL, an `&` of a password is written as %26",
            ),
            _ => ConnInfoError::new(format!("no connection setting {name:?}")),
        })
    }

    /// Adds what is not set yet.
    fn add(&mut self, more: Settings) {
        for (name, value) in more.values {
            self.values.entry(name).or_insert(value);
        }
    }

    fn add_environment(&mut self, surroundings: &Surroundings<'_>) {
        for (name, variable) in KNOWN {
            if !self.values.contains_key(name)
                && let Some(value) = surroundings.get(variable)
            {
                self.set(name, value);
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl ConnInfo {
    /// Reads a URL or a connection string, and completes it from what surrounds it. An empty text means what the
    /// environment says.
    ///
    /// # Errors
    /// When it cannot be read, or asks for what is not supported.
    pub fn resolve(text: &str, surroundings: &Surroundings<'_>) -> Result<Self, ConnInfoError> {
        let text = text.trim();
        let mut settings = if uri::is_url(text) { uri::parse(text)? } else { keyvalue::parse(text)? };
        let service = settings.get("service").map(str::to_owned).or_else(|| surroundings.get("PGSERVICE"));
        if let Some(service) = service {
            let file = settings.get("servicefile").map(str::to_owned);
            settings.add(files::service(&service, file.as_deref(), surroundings)?);
        }
        settings.add_environment(surroundings);
        settings.complete(surroundings)
    }

    /// Returns where it leads, without any secret.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Returns the way to another database of the same server.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        let place = self.shown.rsplit_once('/').map_or(self.shown.as_str(), |(place, _)| place);
        let shown = format!("{place}/{}", uri::encode(database));
        Self { database: database.to_owned(), shown, ..self.clone() }
    }
}

impl Settings {
    fn complete(mut self, surroundings: &Surroundings<'_>) -> Result<ConnInfo, ConnInfoError> {
        self.refuse_what_is_not_supported()?;
        self.refuse_hidden_passwords()?;
        let user = self.get("user").or(surroundings.user).map(str::to_owned);
        let user = user
            .ok_or_else(|| ConnInfoError::new("no user: neither the connection nor the system names one"))?;
        let database = self.get("dbname").unwrap_or(&user).to_owned();
        let mut hosts = self.hosts()?;
        self.add_passwords(&mut hosts, &user, &database, surroundings)?;
        self.set("user", user.clone());
        self.set("dbname", database.clone());
        let places: Vec<String> = hosts.iter().map(Host::name).collect();
        self.set("host", places.join(","));
        let ports: Vec<String> = hosts.iter().map(|host| host.port.to_string()).collect();
        self.set("port", ports.join(","));
        Ok(ConnInfo {
            hosts,
            tls: self.tls(surroundings)?,
            channel_binding: self.channel_binding()?,
            connect_timeout: self.connect_timeout()?,
            options: self.get("options").map(str::to_owned),
            application_name: self.get("application_name").map(str::to_owned),
            target: self.target()?,
            shown: uri::describe(&self.values),
            schema: self.schema,
            pooled: self.pooled,
            user,
            database,
        })
    }

    /// Wishes about security that are not fulfilled here.
    fn refuse_what_is_not_supported(&self) -> Result<(), ConnInfoError> {
        for name in ["sslcrl", "requirepeer", "require_auth"] {
            if self.get(name).is_some() {
                return Err(ConnInfoError::new(format!("the connection setting {name:?} is not supported")));
            }
        }
        if self.get("gssencmode") == Some("require") {
            return Err(ConnInfoError::new("encryption by GSSAPI is not supported")
                .with_hint("use TLS: sslmode=verify-full"));
        }
        Ok(())
    }

    /// Settings are shown, so that none but the password may hold one.
    fn refuse_hidden_passwords(&self) -> Result<(), ConnInfoError> {
        let is_url = |value: &str| value.contains("://") && redact(value) != value;
        let holds = |name: &str, value: &str| {
            is_url(value) || name == "dbname" && redact::secret_word(value).is_some()
        };
        match self.values.iter().find(|(name, value)| **name != "password" && holds(name, value)) {
            Some((name, _)) => {
                Err(ConnInfoError::new(format!("the connection setting {name:?} holds a password"))
                    .with_hint(
                        "give the URL or the connection string by itself, not as the value of a setting",
                    ))
            }
            None => Ok(()),
        }
    }

    /// Returns the hosts; lists of names, addresses and ports go together one by one.
    fn hosts(&self) -> Result<Vec<Host>, ConnInfoError> {
        let list = |name: &str| -> Vec<&str> {
            self.get(name).map(|text| text.split(',').map(str::trim).collect()).unwrap_or_default()
        };
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = names.len().max(addresses.len()).max(1);
        if !addresses.is_empty() && !names.is_empty() && addresses.len() != names.len() {
            return Err(ConnInfoError::new(format!(
                "{} hosts, but {} addresses of hosts",
                names.len(),
                addresses.len()
            )));
        }
        if ports.len() > 1 && ports.len() != count {
            return Err(ConnInfoError::new(format!("{count} hosts, but {} ports", ports.len())));
        }
        (0..count)
            .map(|number| {
                let port = read_port(ports.get(number).or(ports.first()).copied().unwrap_or_default())?;
                let name = names.get(number).copied().unwrap_or_default();
                let address = addresses.get(number).copied().filter(|address| !address.is_empty());
                Ok(Host { address: read_address(name, address, port)?, port, password: None })
            })
            .collect()
    }

    /// The password that was given is for all hosts; otherwise the password file knows each.
    fn add_passwords(
        &self,
        hosts: &mut [Host],
        user: &str,
        database: &str,
        surroundings: &Surroundings<'_>,
    ) -> Result<(), ConnInfoError> {
        let given = self.get("password").map(|password| Password::from(password.to_owned()));
        let file = self.get("passfile").map(PathBuf::from);
        let file = file.or_else(|| surroundings.home.map(|home| home.join(".pgpass")));
        for host in hosts {
            host.password = match (&given, &file) {
                (Some(password), _) => Some(password.clone()),
                (None, Some(file)) => {
                    let name = host.name_for_passwords();
                    files::password(file, [&name, &host.port.to_string(), database, user])?
                }
                (None, None) => None,
            };
        }
        Ok(())
    }

    fn tls(&self, surroundings: &Surroundings<'_>) -> Result<Tls, ConnInfoError> {
        let in_home = |name: &str| {
            let path = surroundings.home.map(|home| home.join(".postgresql").join(name));
            path.filter(|path| path.is_file())
        };
        let roots = match self.get("sslrootcert") {
            Some("system") => Roots::System,
            Some(path) => Roots::File(PathBuf::from(path)),
            None => in_home("root.crt").map_or(Roots::None, Roots::File),
        };
        let mode = self.tls_mode(&roots)?;
        let certificate = self.get("sslcert").map(PathBuf::from).or_else(|| in_home("postgresql.crt"));
        let key = self.get("sslkey").map(PathBuf::from).or_else(|| in_home("postgresql.key"));
        let certificate = certificate.zip(key);
        if self.get("sslcert").is_some() && certificate.is_none() {
            return Err(ConnInfoError::new("there is a certificate (sslcert), but no key to it (sslkey)"));
        }
        let direct =
            one_of(self.get("sslnegotiation"), "sslnegotiation", &[("postgres", false), ("direct", true)])?;
        if direct == Some(true) && mode < TlsMode::Require {
            return Err(ConnInfoError::new("sslnegotiation=direct needs sslmode=require or more"));
        }
        self.refuse_other_versions()?;
        Ok(Tls {
            mode,
            roots,
            certificate,
            direct: direct.unwrap_or(false),
            server_name: self.get("sslsni") != Some("0"),
            only_1_3: self.get("ssl_min_protocol_version") == Some("TLSv1.3"),
        })
    }

    fn tls_mode(&self, roots: &Roots) -> Result<TlsMode, ConnInfoError> {
        let modes = [
            ("disable", TlsMode::Disable),
            ("allow", TlsMode::Allow),
            ("prefer", TlsMode::Prefer),
            ("require", TlsMode::Require),
            ("verify-ca", TlsMode::VerifyCa),
            ("verify-full", TlsMode::VerifyFull),
        ];
        let said = one_of(self.get("sslmode"), "sslmode", &modes)?;
        Ok(match (said, roots) {
            (Some(TlsMode::VerifyFull) | None, Roots::System) => TlsMode::VerifyFull,
            (Some(_), Roots::System) => {
                return Err(ConnInfoError::new("sslrootcert=system needs sslmode=verify-full"));
            }
            // As in libpq: who has root certificates wants them to be used.
            (Some(TlsMode::Require), Roots::File(_)) => TlsMode::VerifyCa,
            (said, _) => said.unwrap_or(TlsMode::Prefer),
        })
    }

    /// TLS 1.2 and 1.3 are what there is.
    fn refuse_other_versions(&self) -> Result<(), ConnInfoError> {
        for name in ["ssl_min_protocol_version", "ssl_max_protocol_version"] {
            let known = [("TLSv1", ()), ("TLSv1.1", ()), ("TLSv1.2", ()), ("TLSv1.3", ())];
            one_of(self.get(name), name, &known)?;
        }
        if matches!(self.get("ssl_max_protocol_version"), Some("TLSv1" | "TLSv1.1" | "TLSv1.2")) {
            return Err(ConnInfoError::new("an upper limit of the version of TLS is not supported"));
        }
        Ok(())
    }

    fn channel_binding(&self) -> Result<ChannelBinding, ConnInfoError> {
        let values = [
            ("disable", ChannelBinding::Disable),
            ("prefer", ChannelBinding::Prefer),
            ("require", ChannelBinding::Require),
        ];
        Ok(one_of(self.get("channel_binding"), "channel_binding", &values)?.unwrap_or(ChannelBinding::Prefer))
    }

    fn connect_timeout(&self) -> Result<Option<Duration>, ConnInfoError> {
        let Some(text) = self.get("connect_timeout") else { return Ok(None) };
        let seconds: i64 = text.trim().parse().map_err(|_| {
            ConnInfoError::new(format!("connect_timeout is {}, not a number of seconds", quoted(text)))
        })?;
        // None or less means no limit of the user's; libpq waits at least two seconds.
        Ok(u64::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(|seconds| Duration::from_secs(seconds.max(2))))
    }

    fn target(&self) -> Result<Target, ConnInfoError> {
        let values = [
            ("any", Target::Any),
            ("read-write", Target::ReadWrite),
            ("read-only", Target::ReadOnly),
            ("primary", Target::Primary),
            ("standby", Target::Standby),
            ("prefer-standby", Target::PreferStandby),
        ];
        Ok(one_of(self.get("target_session_attrs"), "target_session_attrs", &values)?.unwrap_or(Target::Any))
    }
}

/// Returns what a word stands for.
fn one_of<T: Copy>(text: Option<&str>, name: &str, known: &[(&str, T)]) -> Result<Option<T>, ConnInfoError> {
    let Some(text) = text else { return Ok(None) };
    let found = known.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| Some(*value)).ok_or_else(|| {
        let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        ConnInfoError::new(format!("{name} is {}", quoted(text)))
            .with_hint(format!("it may be {}", words.join(", ")))
    })
}

fn read_port(text: &str) -> Result<u16, ConnInfoError> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    let port = text.parse().ok().filter(|port| *port != 0);
    // The text is not shown: it may be the begin of a password with a `/` in it.
    port.ok_or_else(|| ConnInfoError::new("a port is not a number from 1 to 65535").with_hint(uri::ENCODING))
}

fn read_address(name: &str, address: Option<&str>, port: u16) -> Result<Address, ConnInfoError> {
    let parsed = address.map(|address| {
        address
            .parse()
            .map_err(|_| ConnInfoError::new(format!("{} is no address of a host", quoted(address))))
    });
    let address: Option<IpAddr> = parsed.transpose()?;
    if name.starts_with('@') {
        return Err(ConnInfoError::new("abstract Unix sockets are not supported"));
    }
    Ok(match (name, address) {
        ("", None) => Address::Socket(socket_folder(port)),
        ("", Some(address)) => Address::Network { name: address.to_string(), address: Some(address) },
        (path, None) if path.starts_with('/') => Address::Socket(PathBuf::from(path)),
        (name, address) => Address::Network { name: name.to_owned(), address: address.or(name.parse().ok()) },
    })
}

/// Returns the folder in which a server of this port has its socket, or would have it.
fn socket_folder(port: u16) -> PathBuf {
    let folders = SOCKET_FOLDERS.map(PathBuf::from);
    let found = folders.iter().find(|folder| folder.join(format!(".s.PGSQL.{port}")).exists());
    found.unwrap_or(&folders[0]).clone()
}

impl Host {
    /// Returns the name or the folder, as `PGHOST` takes it.
    pub fn name(&self) -> String {
        match &self.address {
            Address::Network { name, .. } => name.clone(),
            Address::Socket(folder) => folder.display().to_string(),
        }
    }

    /// In password files the usual sockets are called `localhost`.
    fn name_for_passwords(&self) -> String {
        match &self.address {
            Address::Socket(folder) if SOCKET_FOLDERS.iter().any(|usual| Path::new(usual) == folder) => {
                "localhost".to_owned()
            }
            _ => self.name(),
        }
    }
}
