//! Whose the server is, and what answers in its place.

use super::*;

#[test]
fn services_are_told_by_their_roles_and_passwords_are_missed_anywhere() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.sql("postgres", "CREATE ROLE modest LOGIN");
    let url = server.url("postgres");
    let (ours, theirs) = (info(&url), info(&url.replace("postgres@", "modest@")));
    let hidden = |service: &str| {
        format!(
            "Note: {service}: there is no superuser, and passwords of roles are not shown to anybody: roles come back without"
        )
    };
    let neon = "Note: Neon: the first connection starts a compute that sleeps, and a backup keeps it awake";
    for (role, expected) in [
        ("neon_superuser", neon.to_owned()),
        ("rds_superuser", hidden("Amazon RDS or Aurora")),
        ("cloudsqlsuperuser", hidden("Google Cloud SQL or AlloyDB")),
        ("alloydbsuperuser", hidden("Google Cloud SQL or AlloyDB")),
        ("azure_pg_admin", hidden("Azure Database for PostgreSQL")),
    ] {
        server.sql("postgres", &format!("CREATE ROLE {role}"));
        for user in [&ours, &theirs] {
            let findings = asked(user, &Asked::default());
            assert_eq!(about(&findings, "service"), [expected.as_str()], "{role}");
            assert!(about(&findings, "roles").is_empty(), "said once: {findings:?}");
        }
        server.sql("postgres", &format!("DROP ROLE {role}"));
    }
    let findings = asked(&ours, &Asked::default());
    assert!(about(&findings, "service").is_empty() && about(&findings, "roles").is_empty(), "{findings:?}");
    assert_eq!(
        about(&asked(&theirs, &Asked::default()), "roles"),
        ["Note: passwords of roles are shown to superusers only: roles come back without"]
    );
}

/// The name of the host is the service's, its address that of a server here.
#[test]
fn pooler_of_a_service_is_known_by_its_name_and_one_for_sessions_is_right() {
    let Some(place) = Place::new("doctor_session", "CREATE TABLE t (id int PRIMARY KEY)") else { return };
    let through = |name: &str| {
        let port = place.server.port();
        info(&format!(
            "host={name} hostaddr=127.0.0.1 port={port} user=postgres dbname=doctor_session sslmode=disable"
        ))
    };
    let findings = asked(&through("aws-0-eu-central-1.pooler.supabase.com"), &Asked::default());
    assert_eq!(
        about(&findings, "pooler"),
        ["Ok: this is the session pooler of Supabase: it keeps a connection for one client"]
    );
    assert_eq!(about(&findings, "service").len(), 2, "{findings:?}");
    assert!(worst(&findings) < Severity::Problem, "{findings:#?}");
    let findings = asked(&through("ep-cool-1-pooler.eu-central-1.aws.neon.tech"), &Asked::default());
    let direct = format!(
        "use postgresql://postgres@ep-cool-1.eu-central-1.aws.neon.tech:{}/doctor_session",
        place.server.port()
    );
    assert_eq!(
        about(&findings, "pooler"),
        [format!(
            "Problem: this is the pooler of Neon: pg_dump would spoil connections of others, and its archive could be wrong | {direct}"
        )]
    );
}

#[test]
fn pooler_that_the_url_tells_of_is_believed_where_nothing_else_tells() {
    let Some(place) = Place::new("doctor_pooled", "CREATE TABLE t (id int PRIMARY KEY)") else { return };
    // Nothing is between: what the URL says is an old habit.
    let straight = format!("{}?pgbouncer=true", place.server.url("doctor_pooled"));
    assert!(about(&asked(&info(&straight), &Asked::default()), "pooler").is_empty());
    let Some(bouncer) = Bouncer::start(place.server, "session") else {
        return println!("skipped: pgbouncer is not installed");
    };
    let through = format!(
        "postgresql://postgres@127.0.0.1:{}/doctor_pooled?sslmode=disable&pgbouncer=true",
        bouncer.port
    );
    assert_eq!(
        about(&asked(&info(&through), &Asked::default()), "pooler"),
        [
            "Problem: the URL says that a pooler answers: whether it shares connections among clients cannot be told from here, \
             and a backup through it is refused | \
             use the address of the server itself, or a pool with pool_mode = session"
        ]
    );
}
