//! The sample databases: a small application before it moves to another engine.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Result};

/// One sample database: its name, and the SQL that makes it.
pub(super) struct Sample {
    /// The name; the file is called after it.
    pub(super) name: &'static str,
    sql: &'static str,
}

/// The five databases.
pub(super) const ALL: [Sample; 5] = [
    Sample { name: "mingus", sql: MINGUS },
    Sample { name: "business_intelligence", sql: BUSINESS_INTELLIGENCE },
    Sample { name: "cache", sql: CACHE },
    Sample { name: "performance_metrics", sql: PERFORMANCE_METRICS },
    Sample { name: "alerts", sql: ALERTS },
];

/// A change that is meant.
pub(super) const NEW_USERS: &str =
    "INSERT INTO users (email, name) VALUES ('nina@example.org', 'Nina'), ('ron@example.org', 'Ron');";

/// A change that is not.
pub(super) const MISTAKE: &str = "DELETE FROM alert_rules;";

impl Sample {
    /// Returns the name of the file.
    pub(super) fn file(&self) -> String {
        format!("{}.db", self.name)
    }

    /// Makes the database in a new file.
    pub(super) fn make(&self, path: &Path) -> Result<()> {
        let connection = Connection::open(path)?;
        // As applications have it: readers go on while one writes.
        connection.execute_batch("PRAGMA journal_mode = WAL;")?;
        connection.execute_batch(&format!("BEGIN;{}COMMIT;", self.sql))
    }
}

/// Runs one statement, as an application would.
pub(super) fn execute(path: &Path, statement: &str) -> Result<()> {
    Connection::open(path)?.execute_batch(statement)
}

/// Returns how many rows a table has.
pub(super) fn rows(path: &Path, table: &str) -> Result<u64> {
    count(&Connection::open(path)?, table)
}

/// Returns how many rows all tables have together, `sqlite_sequence` included.
pub(super) fn total_rows(path: &Path) -> Result<u64> {
    let connection = Connection::open(path)?;
    let mut statement = connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    let mut total = 0;
    for name in names {
        total += count(&connection, &name?)?;
    }
    Ok(total)
}

fn count(connection: &Connection, table: &str) -> Result<u64> {
    let query = format!("SELECT count(*) FROM \"{table}\"");
    let rows: Option<i64> = connection.query_row(&query, [], |row| row.get(0)).optional()?;
    Ok(rows.and_then(|rows| u64::try_from(rows).ok()).unwrap_or_default())
}

const MINGUS: &str = "
CREATE TABLE users (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE, name TEXT NOT NULL, created TEXT DEFAULT '2025-06-01');
CREATE TABLE user_profiles (user_id INTEGER PRIMARY KEY REFERENCES users (id), city TEXT, income REAL, goals TEXT);
CREATE TABLE onboarding_progress (user_id INTEGER PRIMARY KEY REFERENCES users (id), step INTEGER NOT NULL, done INTEGER NOT NULL DEFAULT 0);
CREATE TABLE user_health_checkins (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users (id), day TEXT NOT NULL, sleep REAL, mood INTEGER, stress INTEGER);
CREATE TABLE health_spending_correlations (id INTEGER PRIMARY KEY, user_id INTEGER REFERENCES users (id), metric TEXT NOT NULL, correlation REAL);
CREATE INDEX checkins_by_user ON user_health_checkins (user_id, day);
INSERT INTO users (email, name) VALUES ('charles@example.org', 'Charles'), ('dorothy@example.org', 'Dorothy'), ('eric@example.org', 'Eric');
INSERT INTO user_profiles VALUES (1, 'Nogales', 52000, 'save for a bass'), (2, 'Los Angeles', 61000.5, NULL), (3, 'Berlin', 48000, 'fewer subscriptions');
INSERT INTO onboarding_progress VALUES (1, 4, 1), (2, 2, 0);
INSERT INTO user_health_checkins VALUES (1, 1, '2025-08-01', 7.5, 8, 3), (2, 2, '2025-08-01', 5.0, 5, 7);
INSERT INTO health_spending_correlations VALUES (1, 2, 'sleep', -0.42);
";

const BUSINESS_INTELLIGENCE: &str = "
CREATE TABLE user_metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id INTEGER NOT NULL, metric TEXT NOT NULL, value REAL, at TEXT);
CREATE TABLE feature_usage (id INTEGER PRIMARY KEY AUTOINCREMENT, feature TEXT NOT NULL, user_id INTEGER, at TEXT);
CREATE TABLE user_feedback (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id INTEGER, stars INTEGER CHECK (stars BETWEEN 1 AND 5), words TEXT);
CREATE TABLE score_accuracy (id INTEGER PRIMARY KEY AUTOINCREMENT, predicted REAL, actual REAL);
CREATE TABLE roi_metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, campaign TEXT, cost REAL, revenue REAL);
CREATE TABLE user_journey (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id INTEGER, step TEXT, at TEXT);
INSERT INTO user_metrics (user_id, metric, value, at) VALUES
  (1, 'sessions', 12, '2025-08-01'), (1, 'minutes', 94.5, '2025-08-01'), (2, 'sessions', 3, '2025-08-01'),
  (2, 'minutes', 17, '2025-08-01'), (3, 'sessions', 1, '2025-08-02');
";

const CACHE: &str = "
CREATE TABLE cache_entries (key TEXT PRIMARY KEY, value BLOB, expires INTEGER) WITHOUT ROWID;
";

const PERFORMANCE_METRICS: &str = "
CREATE TABLE api_metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, milliseconds REAL, status INTEGER, at TEXT);
CREATE TABLE database_metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, query TEXT, milliseconds REAL, rows INTEGER, at TEXT);
CREATE TABLE score_metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, score TEXT, milliseconds REAL, at TEXT);
CREATE TABLE user_engagement (id INTEGER PRIMARY KEY AUTOINCREMENT, user_id INTEGER, seconds REAL, at TEXT);
CREATE INDEX api_by_endpoint ON api_metrics (endpoint, at);
";

const ALERTS: &str = "
CREATE TABLE alert_rules (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, metric TEXT NOT NULL, threshold REAL NOT NULL, severity TEXT NOT NULL);
CREATE TABLE alerts (id INTEGER PRIMARY KEY AUTOINCREMENT, rule_id INTEGER REFERENCES alert_rules (id), raised TEXT NOT NULL, resolved TEXT);
CREATE TABLE alert_channels (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, target TEXT NOT NULL);
INSERT INTO alert_rules (name, metric, threshold, severity) VALUES
  ('slow requests', 'api.p95', 800, 'warning'), ('very slow requests', 'api.p95', 3000, 'critical'),
  ('failing requests', 'api.errors', 0.02, 'critical'), ('slow queries', 'db.p95', 200, 'warning'),
  ('full disk', 'disk.used', 0.9, 'critical');
INSERT INTO alert_channels (kind, target) VALUES ('mail', 'ops@example.org'), ('chat', '#alerts'), ('pager', 'on-call');
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_the_tables_and_rows_of_the_system_they_stand_for() {
        let directory = tempfile::tempdir().unwrap();
        let expected: [(&str, &[&str], u64); 5] = [
            (
                "mingus",
                &[
                    "health_spending_correlations",
                    "onboarding_progress",
                    "user_health_checkins",
                    "user_profiles",
                    "users",
                ],
                11,
            ),
            (
                "business_intelligence",
                &[
                    "feature_usage",
                    "roi_metrics",
                    "score_accuracy",
                    "sqlite_sequence",
                    "user_feedback",
                    "user_journey",
                    "user_metrics",
                ],
                6,
            ),
            ("cache", &["cache_entries"], 0),
            (
                "performance_metrics",
                &["api_metrics", "database_metrics", "score_metrics", "sqlite_sequence", "user_engagement"],
                0,
            ),
            ("alerts", &["alert_channels", "alert_rules", "alerts", "sqlite_sequence"], 10),
        ];
        for (sample, (name, tables, total)) in ALL.iter().zip(expected) {
            let path = directory.path().join(sample.file());
            sample.make(&path).unwrap();
            assert_eq!(sample.name, name);
            let connection = Connection::open(&path).unwrap();
            let mut statement = connection
                .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
                .unwrap();
            let found: Vec<String> =
                statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            assert_eq!(found, tables, "{name}");
            assert_eq!(total_rows(&path).unwrap(), total, "{name}");
        }
        let metrics = directory.path().join("business_intelligence.db");
        assert_eq!(rows(&metrics, "user_metrics").unwrap(), 5);
        assert_eq!(rows(&metrics, "sqlite_sequence").unwrap(), 1);
    }
}
