//! Connection strings and what surrounds them.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

/// A home of its own, and an environment.
struct Place {
    home: tempfile::TempDir,
    variables: HashMap<String, String>,
}

impl Place {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), variables: HashMap::new() }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    fn file(self, name: &str, contents: &str) -> Self {
        let path = self.home.path().join(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self
    }

    fn at_home(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    fn resolve(&self, text: &str) -> Result<ConnInfo, ConnInfoError> {
        let variable = |name: &str| self.variables.get(name).cloned();
        let surroundings =
            Surroundings { variable: &variable, home: Some(self.home.path()), user: Some("ann") };
        ConnInfo::resolve(text, &surroundings)
    }
}

fn resolve(text: &str) -> ConnInfo {
    Place::new().resolve(text).unwrap()
}

fn error(text: &str) -> String {
    Place::new().resolve(text).unwrap_err().to_string()
}

fn network(name: &str) -> Address {
    Address::Network { name: name.to_owned(), address: name.parse().ok() }
}

fn password(info: &ConnInfo) -> Option<&str> {
    info.hosts[0].password.as_ref().map(Password::expose)
}

#[test]
fn url_says_user_password_host_port_and_database() {
    let info =
        resolve("postgresql://bob:s%40crt%2F@db.example.org:6000/shop?connect_timeout=5&sslmode=require");
    assert_eq!((info.user.as_str(), info.database.as_str()), ("bob", "shop"));
    assert_eq!(password(&info), Some("s@crt/"));
    assert_eq!((&info.hosts[0].address, info.hosts[0].port), (&network("db.example.org"), 6000));
    assert_eq!(info.tls.mode, TlsMode::Require);
    assert_eq!(info.connect_timeout, Some(Duration::from_secs(5)));
    assert_eq!(info.shown(), "postgresql://bob@db.example.org:6000/shop");
}

#[test]
fn connection_string_says_the_same() {
    let info = resolve(r"host = db.example.org port=6000 user=bob password='it\'s \\ here' dbname='a b'");
    assert_eq!((info.user.as_str(), info.database.as_str()), ("bob", "a b"));
    assert_eq!(password(&info), Some(r"it's \ here"));
    assert_eq!(info.shown(), "postgresql://bob@db.example.org:6000/a%20b");
}

#[test]
fn libraries_write_urls_in_their_own_ways() {
    for url in [
        "postgresql+psycopg2://bob:pw@h:1/d",
        "postgres+asyncpg://bob:pw@h:1/d?ssl=require",
        "POSTGRES://bob:pw@h:1/d",
        "jdbc:postgresql://h:1/d?user=bob&password=pw&ssl=true",
        "postgresql://bob:pw@h:1/d?schema=public&connection_limit=5&pool_timeout=10",
        "postgres://bob:pw@h:1/d?sslmode=no-verify&pool_max_conns=10",
        "postgres:///d?host=h&port=1&user=bob&password=pw",
    ] {
        let info = resolve(url);
        assert_eq!(info.shown(), "postgresql://bob@h:1/d", "{url}");
        assert_eq!(password(&info), Some("pw"), "{url}");
        let wants_tls = url.contains("ssl");
        assert_eq!(info.tls.mode == TlsMode::Require, wants_tls, "{url}");
    }
    let prisma = resolve("postgresql://u@h/d?schema=app&pgbouncer=true&sslaccept=strict");
    assert_eq!((prisma.schema.as_deref(), prisma.pooled), (Some("app"), true));
    assert_eq!(prisma.tls.mode, TlsMode::VerifyFull);
}

#[test]
fn several_hosts_ports_and_addresses_go_together() {
    let info = resolve("postgresql://u@a:1,[::1]:2,b/d?target_session_attrs=read-write");
    let places: Vec<(String, u16)> = info.hosts.iter().map(|host| (host.name(), host.port)).collect();
    assert_eq!(places, [("a".to_owned(), 1), ("::1".to_owned(), 2), ("b".to_owned(), 5432)]);
    assert_eq!(info.target, Target::ReadWrite);
    let info = resolve("host=a,b hostaddr=10.0.0.1,10.0.0.2 port=7");
    let address = Address::Network { name: "b".to_owned(), address: "10.0.0.2".parse().ok() };
    assert_eq!(info.hosts[1], Host { address, port: 7, password: None });
    assert_eq!(error("host=a,b port=1,2,3"), "2 hosts, but 3 ports");
    assert_eq!(error("host=a,b hostaddr=10.0.0.1"), "2 hosts, but 1 addresses of hosts");
}

#[test]
fn sockets_are_folders() {
    for text in ["postgresql://%2Frun%2Fpg/d", "host=/run/pg dbname=d", "postgresql:///d?host=/run/pg"] {
        assert_eq!(resolve(text).hosts[0].address, Address::Socket("/run/pg".into()), "{text}");
    }
    assert!(matches!(resolve("dbname=d").hosts[0].address, Address::Socket(_)));
}

#[test]
fn what_is_said_counts_before_the_service_and_that_before_the_environment() {
    let services = "# ours\n[other]\nhost=wrong\n[shop]\nhost=from-service\nport=7\ndbname=service\n[last]\n";
    let place = Place::new()
        .file(".pg_service.conf", services)
        .with("PGSERVICE", "shop")
        .with("PGHOST", "from-environment")
        .with("PGUSER", "from-environment")
        .with("PGPORT", "8");
    assert_eq!(
        place.resolve("dbname=said").unwrap().shown(),
        "postgresql://from-environment@from-service:7/said"
    );
    let wrong = place.resolve("service=absent").unwrap_err();
    assert_eq!(wrong.to_string(), "no service \"absent\"");
}

#[test]
fn user_of_the_system_and_database_of_the_user_are_what_is_usual() {
    let info = resolve("");
    assert_eq!((info.user.as_str(), info.database.as_str()), ("ann", "ann"));
    assert_eq!(info.tls.mode, TlsMode::Prefer);
}

#[test]
fn password_file_is_asked_by_host_port_database_and_user() {
    let lines = "# comment\nother:*:*:*:no\nh:5432:d:u:a\\:b\\\\c\nlocalhost:*:*:u:local\n*:*:*:*:any\n";
    let place = Place::new().file(".pgpass", lines);
    assert_eq!(password(&place.resolve("host=h user=u dbname=d").unwrap()), Some("a:b\\c"));
    assert_eq!(password(&place.resolve("host=h user=v dbname=d").unwrap()), Some("any"));
    assert_eq!(password(&place.resolve("host=/tmp user=u dbname=d").unwrap()), Some("local"));
    assert_eq!(password(&place.resolve("host=h user=u dbname=d password=said").unwrap()), Some("said"));
    fs::set_permissions(place.home.path().join(".pgpass"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = place.resolve("host=h").unwrap_err();
    assert!(error.to_string().ends_with("can be read by others, so it is not used"), "{error}");
    assert!(error.hint().unwrap().starts_with("chmod 600 "));
}

#[test]
fn root_certificates_are_used_where_there_are_any() {
    let place = Place::new();
    fs::create_dir(place.home.path().join(".postgresql")).unwrap();
    let place = place.file(".postgresql/root.crt", "");
    let info = place.resolve("host=h sslmode=require").unwrap();
    assert_eq!(info.tls.mode, TlsMode::VerifyCa);
    assert_eq!(info.tls.roots, Roots::File(place.home.path().join(".postgresql/root.crt")));
    let info = resolve("postgresql://h/d?sslmode=verify-full&sslrootcert=system&channel_binding=require");
    assert_eq!((info.tls.mode, info.tls.roots), (TlsMode::VerifyFull, Roots::System));
    assert_eq!(info.channel_binding, ChannelBinding::Require);
    assert_eq!(error("sslmode=require sslrootcert=system"), "sslrootcert=system needs sslmode=verify-full");
}

#[test]
fn what_cannot_be_read_or_fulfilled_is_an_error() {
    for (text, message) in [
        ("postgresql://u@h:port/d", "a port is not a number from 1 to 65535"),
        ("postgresql://u:p%zz@h/d", "a `%` in the URL is not followed by two hexadecimal digits"),
        ("postgresql://u@[::1/d", "an IPv6 address in the URL lacks its `]`"),
        ("postgresql://u@h/d?sslmod=require", "no connection setting \"sslmod\""),
        ("postgresql://u@h/d?sslmode=maybe", "sslmode is \"maybe\""),
        ("postgresql://u@h/d?sslmode", "the parameter \"sslmode\" of the URL has no value"),
        ("host=h sslcrl=x", "the connection setting \"sslcrl\" is not supported"),
        ("host=h gssencmode=require", "encryption by GSSAPI is not supported"),
        ("host=h password='open", "a quoted value of the connection string has no end"),
        ("password=two words", "a word of the connection string has no `=` after it"),
        ("host=h replication=database", "the connection setting \"replication\" is not supported"),
        ("sslcert=a.crt", "there is a certificate (sslcert), but no key to it (sslkey)"),
        ("sslnegotiation=direct", "sslnegotiation=direct needs sslmode=require or more"),
        ("ssl_max_protocol_version=TLSv1.2", "an upper limit of the version of TLS is not supported"),
    ] {
        assert_eq!(error(text), message, "{text}");
    }
}

#[test]
fn passwords_show_nowhere() {
    let info = resolve("postgresql://u:hunter2@h/d");
    assert!(!format!("{info:?}").contains("hunter2"));
    for text in ["postgresql://u:hunter2%@h/d", "postgresql://u:a/hunter2@h/d", "host=h password=x hunter2"] {
        let error = Place::new().resolve(text);
        if let Err(error) = error {
            assert!(!format!("{error} {:?}", error.hint()).contains("hunter2"), "{text}: {error}");
        }
    }
}

/// What a password is made of in these tests: whichever of the two shows, it is a leak.
const ENDS: [&str; 2] = ["s3cr", "et9x"];

/// The ways in which a password is said, `{}` in its place; some are wrong in a way of their own.
const FORMS: [&str; 25] = [
    "postgres://u:{}@127.0.0.1:1/d",
    "POSTGRESQL+psycopg2://u:{}@127.0.0.1:1,[::1]:2/d?sslmode=disable",
    "postgres://u:{}@h",
    "postgres://u:1{}@h/d",
    "postgres://u:{}@",
    "postgres://u@x:{}@h/d",
    "postgres://u@h/d?password={}&sslmode=disable",
    "postgres://u@h?password={}",
    "postgres://h:1?user=u&password={}",
    "postgres://u:x@h/d?sslmode=disable&pass%77ord={}",
    "postgres://u:{}@h/d?sslmod=disable",
    "jdbc:postgresql://h:1/d?user=u&password={}",
    "jdbc:postgresql:d?user=u&password={}",
    "prisma+postgres://h/?api_key={}",
    "postgres//u:{}@h/d?sslmode=disable",
    "postgres:u:{}@h/d",
    "u:{}@h/d",
    "\"postgres://u:{}@h/d\"",
    "host=h password={}",
    "password = {} host=h port=1",
    "application_name=x password='{}' host=h",
    "connect_timeout=5 PASSWORD\t ={}",
    "Server=h;Password={};Port=1",
    "dbname=postgres://u:{}@h/d",
    "host=h dbname='host=h password={}'",
];

/// Returns what shows of the password in anything that is made of a text.
fn leaks(form: &str, text: &str) -> Vec<String> {
    let mut shown = vec![redact(text)];
    if form.contains("://") || form.to_ascii_lowercase().contains("password") {
        // In the midst of other words nothing else tells them.
        shown.push(redact_within(&format!("no such '{text}' here")));
    }
    let surroundings = Surroundings { variable: &|_| None, home: None, user: Some("ann") };
    match ConnInfo::resolve(text, &surroundings) {
        Ok(info) => {
            shown.push(format!("{info:?} {}", info.shown()));
            shown.extend(info.hosts.iter().map(Host::place));
        }
        Err(error) => {
            let error = crate::Error::from(error);
            shown.push(format!("{error} {error:?} {:?}", error.hint()));
            let source = std::error::Error::source(&error);
            assert!(source.is_none(), "{source:?}");
        }
    }
    shown.retain(|shown| ENDS.iter().any(|end| shown.contains(end)));
    shown
}

#[test]
fn hostile_passwords_show_in_no_form() {
    let middles = [
        "", "@", "/", "?", "#", ":", "%", "%40", "%zz", "=", "&", "'", "\"", "\\", " ", "://", "@/?#",
        "?a=b@", "&a=", "' a=", "/?@", "@h/", "?=", ",", "[", "]", "@@", "]:1/", ";", "\n", "\u{a0}", "é",
        "***", "#@:/", "1/a?b", " a=", "/x@y?z",
    ];
    let mut leaked = Vec::new();
    for form in FORMS {
        for middle in middles {
            let text = form.replace("{}", &format!("{}{middle}{}", ENDS[0], ENDS[1]));
            leaked.extend(leaks(form, &text).into_iter().map(|shown| (text.clone(), shown)));
        }
    }
    assert!(leaked.is_empty(), "{leaked:#?}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 4000, ..Default::default() })]
    #[test]
    fn no_password_shows(
        form in 0..FORMS.len(),
        before in "[@/?#:%=&'\"\\\\ ,;a1]{0,2}",
        middle in "[@/?#:%=&'\"\\\\ ,;a1\\[\\]\n]{0,6}",
        after in "[@/?#:%=&'\"\\\\ ,;a1]{0,2}",
    ) {
        let text = FORMS[form].replace("{}", &format!("{before}{}{middle}{}{after}", ENDS[0], ENDS[1]));
        // That is a URL of a scheme that nobody knows, without a password.
        proptest::prop_assume!(!text.starts_with("u://"));
        proptest::prop_assert_eq!(leaks(FORMS[form], &text), Vec::<String>::new(), "{}", text);
    }
}

#[test]
fn passwords_are_read_as_libpq_reads_them() {
    for (text, expected) in [
        ("postgresql://u:p?s#s:w@h/d", "p?s#s:w"),
        ("postgresql://u:p?x=1@h/d?sslmode=disable", "p?x=1"),
        ("postgresql://u@h/d?password=a#b@c", "a#b@c"),
        ("postgresql://h:1/d?user=bob@srv&password=a", "a"),
    ] {
        let info = resolve(text);
        assert_eq!((password(&info), info.database.as_str()), (Some(expected), "d"), "{text}");
        assert_eq!(info.hosts[0].name(), "h", "{text}");
    }
}

#[test]
fn url_that_can_be_read_in_two_ways_is_refused() {
    for text in ["postgresql://u:1/a@h/d", "postgresql://u:p@h/d@x", "postgresql://u@h?password=a@b"] {
        let error = Place::new().resolve(text).unwrap_err();
        assert_eq!(error.to_string(), "it is not certain where the password of the URL ends", "{text}");
        assert!(error.hint().is_some_and(|hint| hint.contains("%2F") && hint.contains("%40")), "{error:?}");
    }
}

#[test]
fn password_in_another_setting_is_refused_and_not_shown() {
    let place = Place::new().with("PGDATABASE", "postgres://u:s3cret@h/d");
    let error = place.resolve("host=h").unwrap_err();
    assert_eq!(error.to_string(), "the connection setting \"dbname\" holds a password");
}

#[test]
fn password_with_an_at_sign_that_nobody_encoded_is_understood() {
    assert_eq!(password(&resolve("postgresql://u:p@ss@h/d")), Some("p@ss"));
}

#[test]
fn password_with_a_slash_that_nobody_encoded_gets_a_hint() {
    let error = Place::new().resolve("postgresql://u:qx/zz@h/d").unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("%2F")), "{error}");
    assert!(!format!("{error:?}").contains("qx"), "{error}");
}

#[test]
fn hostile_names_survive_the_way_to_the_shown_url() {
    let info = resolve(r"dbname='-d \'=\n/%' user='a@b' host=h");
    assert_eq!(info.database, "-d '=n/%");
    let again = resolve(info.shown());
    assert_eq!((again.database, again.user), (info.database, info.user));
}

#[test]
fn nothing_in_a_string_panics() {
    let pieces =
        ["postgres://", "u", ":", "@", "[", "]", "%", "%2", "?", "&", "=", "'", "\\", ",", "/", "é", " "];
    for number in 0..pieces.len().pow(4) {
        let text = (0..4).map(|place| pieces[number / pieces.len().pow(place) % pieces.len()]);
        let text =
            format!("{}{}", if number % 2 == 0 { "postgres://" } else { "" }, text.collect::<String>());
        let variable = |_: &str| None;
        let surroundings =
            Surroundings { variable: &variable, home: Some(Path::new("/nowhere")), user: Some("ann") };
        let _ = ConnInfo::resolve(&text, &surroundings);
    }
}

#[test]
fn variables_of_libpq_say_what_settings_say() {
    let shown = |info: Result<ConnInfo, ConnInfoError>| info.map(|info| format!("{info:?}"));
    for (variable, setting, value) in [
        ("PGHOST", "host", "a,b"),
        ("PGHOSTADDR", "hostaddr", "10.0.0.1"),
        ("PGPORT", "port", "7"),
        ("PGDATABASE", "dbname", "shop"),
        ("PGUSER", "user", "bob"),
        ("PGPASSWORD", "password", "secret"),
        ("PGOPTIONS", "options", "-cgeqo=off"),
        ("PGAPPNAME", "application_name", "nightly"),
        ("PGSSLMODE", "sslmode", "verify-full"),
        ("PGSSLROOTCERT", "sslrootcert", "/etc/root.crt"),
        ("PGSSLROOTCERT", "sslrootcert", "system"),
        ("PGSSLCERT", "sslcert", "/etc/own.crt"),
        ("PGSSLKEY", "sslkey", "/etc/own.key"),
        ("PGSSLSNI", "sslsni", "0"),
        ("PGSSLNEGOTIATION", "sslnegotiation", "direct"),
        ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version", "TLSv1.3"),
        ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version", "TLSv1.2"),
        ("PGCHANNELBINDING", "channel_binding", "require"),
        ("PGCONNECT_TIMEOUT", "connect_timeout", "9"),
        ("PGTARGETSESSIONATTRS", "target_session_attrs", "standby"),
        ("PGSSLCRL", "sslcrl", "/etc/revoked.crl"),
        ("PGREQUIREPEER", "requirepeer", "postgres"),
        ("PGREQUIREAUTH", "require_auth", "scram-sha-256"),
        ("PGGSSENCMODE", "gssencmode", "require"),
    ] {
        // A certificate says nothing without its key, nor a key without its certificate.
        let more = match setting {
            "sslcert" => "sslkey=/k",
            "sslkey" => "sslcert=/c",
            _ => "",
        };
        let by_variable = Place::new().with(variable, value).resolve(more);
        let said = Place::new().resolve(&format!("{setting}={value} {more}"));
        assert_eq!(shown(by_variable), shown(said.clone()), "{variable}");
        assert_ne!(shown(said), shown(Place::new().resolve(more)), "{setting}");
        let empty = Place::new().with(variable, "").resolve(more);
        assert_eq!(shown(empty), shown(Place::new().resolve(more)), "{variable} that is empty is none");
    }
}

#[test]
fn password_of_the_environment_counts_before_password_files_and_behind_what_is_said() {
    let place = Place::new().file(".pgpass", "*:*:*:*:of the file").with("PGPASSWORD", "of the environment");
    assert_eq!(password(&place.resolve("host=h").unwrap()), Some("of the environment"));
    assert_eq!(password(&place.resolve("host=h password=said").unwrap()), Some("said"));
    let place = place.file(".pg_service.conf", "[shop]\npassword=of the service\n");
    assert_eq!(password(&place.resolve("service=shop").unwrap()), Some("of the service"));
    let place = place.with("PGPASSWORD", "");
    assert_eq!(password(&place.resolve("host=h").unwrap()), Some("of the file"));
}

#[test]
fn password_file_that_is_named_is_used_instead_of_the_one_at_home() {
    let place = Place::new()
        .file(".pgpass", "*:*:*:*:at home")
        .file("named", "a:1:*:*:first\nb:2:*:*:second\n")
        .file("said", "*:*:*:*:said");
    let (named, said, absent) = (place.at_home("named"), place.at_home("said"), place.at_home("absent"));
    let passwords = |place: &Place, text: &str| -> Vec<Option<String>> {
        let hosts = place.resolve(text).unwrap().hosts;
        hosts.iter().map(|host| host.password.as_ref().map(|it| it.expose().to_owned())).collect()
    };
    let some = |password: &str| Some(password.to_owned());
    assert_eq!(passwords(&place, "host=a port=1"), [some("at home")]);
    assert_eq!(passwords(&place, &format!("host=a passfile='{said}'")), [some("said")]);
    assert_eq!(passwords(&place, &format!("host=a passfile='{absent}'")), [None]);

    let place = place.with("PGPASSFILE", &named);
    assert_eq!(passwords(&place, "host=a,b,c port=1,2,3"), [some("first"), some("second"), None]);
    assert_eq!(passwords(&place, &format!("host=a port=1 passfile='{said}'")), [some("said")]);
    let url = format!("postgresql://u@a:1/d?passfile={}", said.replace('/', "%2F"));
    assert_eq!(passwords(&place, &url), [some("said")]);

    fs::set_permissions(&named, fs::Permissions::from_mode(0o640)).unwrap();
    let error = place.resolve("host=a").unwrap_err();
    assert_eq!(error.to_string(), format!("{named} can be read by others, so it is not used"));
}

#[test]
fn services_are_looked_for_in_the_file_that_is_named_and_then_in_that_of_the_system() {
    let place = Place::new();
    fs::create_dir(place.home.path().join("system")).unwrap();
    let place = place
        .file(".pg_service.conf", "[shop]\nhost=at-home\n")
        .file("named", "[shop]\nhost=named\n")
        .file("said", "[shop]\nhost=said\n")
        .file("system/pg_service.conf", "[shop]\nhost=system\n[ours]\nhost=ours\nsslmode=require\n");
    let (named, said, system) = (place.at_home("named"), place.at_home("said"), place.at_home("system"));
    let host = |place: &Place, text: &str| place.resolve(text).map(|info| info.hosts[0].name());
    let place = place.with("PGSYSCONFDIR", &system);
    assert_eq!(host(&place, "service=shop").unwrap(), "at-home");
    assert_eq!(host(&place, "service=ours").unwrap(), "ours");
    assert_eq!(place.resolve("service=ours").unwrap().tls.mode, TlsMode::Require);

    let place = place.with("PGSERVICEFILE", &named).with("PGSERVICE", "shop");
    assert_eq!(host(&place, "").unwrap(), "named");
    assert_eq!(host(&place, &format!("servicefile='{said}'")).unwrap(), "said");
    assert_eq!(host(&place, "service=ours").unwrap(), "ours", "what the named file lacks");
    assert_eq!(host(&place, "service=absent").unwrap_err().to_string(), "no service \"absent\"");
    let nothing = place.at_home("nothing");
    let place = place.with("PGSERVICEFILE", &nothing);
    assert_eq!(host(&place, "").unwrap(), "system", "never the one at home when another is named");
}

#[test]
fn protection_that_the_environment_asks_for_is_asked_for() {
    let mode = |place: &Place, text: &str| place.resolve(text).map(|info| info.tls.mode);
    for (word, expected) in [
        ("disable", TlsMode::Disable),
        ("allow", TlsMode::Allow),
        ("prefer", TlsMode::Prefer),
        ("require", TlsMode::Require),
        ("verify-ca", TlsMode::VerifyCa),
        ("verify-full", TlsMode::VerifyFull),
    ] {
        let place = Place::new().with("PGSSLMODE", word);
        assert_eq!(mode(&place, "host=h").unwrap(), expected, "{word}");
        assert_eq!(mode(&place, "postgresql://h/d?sslmode=disable").unwrap(), TlsMode::Disable);
    }
    let place = Place::new().with("PGSSLROOTCERT", "/etc/root.crt").with("PGSSLMODE", "require");
    let info = place.resolve("host=h").unwrap();
    assert_eq!((info.tls.mode, info.tls.roots), (TlsMode::VerifyCa, Roots::File("/etc/root.crt".into())));
    let said = place.resolve("host=h sslrootcert=/other.crt").unwrap();
    assert_eq!(said.tls.roots, Roots::File("/other.crt".into()));
    let place = Place::new().with("PGSSLROOTCERT", "system");
    assert_eq!(mode(&place, "host=h").unwrap(), TlsMode::VerifyFull);
    let error = mode(&place.with("PGSSLMODE", "require"), "host=h").unwrap_err();
    assert_eq!(error.to_string(), "sslrootcert=system needs sslmode=verify-full");
    let error = mode(&Place::new().with("PGSSLMODE", "maybe"), "host=h").unwrap_err();
    assert_eq!(error.to_string(), "sslmode is \"maybe\"");
}
