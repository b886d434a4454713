//! A server that lets nobody in without TLS: our connections and those of `pg_dump` are protected alike.

use std::fs;

use dbkeep_testkit::postgres::Settings;

use super::{SHOP, Shop};

#[test]
fn everything_goes_through_tls_and_the_server_is_who_it_says() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let access = ["hostnossl all all all reject", "hostssl all postgres 127.0.0.1/32 trust"];
    let settings = Settings {
        access: access.map(str::to_owned).to_vec(),
        certificate: Some((own.cert.pem(), own.signing_key.serialize_pem())),
        ..Settings::default()
    };
    let Some(shop) = Shop::with(&settings) else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    for (name, text) in [("own.crt", own.cert.pem()), ("other.crt", other.cert.pem())] {
        fs::write(environment.path(name), text).unwrap();
    }
    let url = |host: &str, database: &str, root: &str| {
        let (port, root) = (server.port(), environment.path(root));
        let root = root.display();
        format!("postgresql://postgres@{host}:{port}/{database}?sslmode=verify-full&sslrootcert={root}")
    };
    for (host, root) in [("localhost", "other.crt"), ("127.0.0.1", "own.crt")] {
        let (code, document) = environment.json(&["backup", &url(host, "shop", root)]);
        assert_eq!((code, document["error"]["kind"].as_str()), (Some(1), Some("tls")), "{document:#}");
        assert_eq!(shop.snapshots(), 0);
    }
    environment.ok(["backup", &url("localhost", "shop", "own.crt")]);
    environment.ok(["restore", "latest", "--to", &url("localhost", "back", "own.crt")]);
    server.create_database("reference");
    server.sql("reference", SHOP);
    shop.expect_same("reference", server, "back");
}
