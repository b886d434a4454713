//! The policies of a configuration.

use std::collections::BTreeMap;

use jiff::Span;

use super::Policy;
use crate::config::{Config, RetentionConfig};
use crate::{Error, Result};

/// The policies of a repository: one for each database that has its own, and one for all others.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    general: Policy,
    databases: BTreeMap<String, Policy>,
}

impl Policies {
    /// Returns those of the primary repository.
    ///
    /// What a database says counts before what is said for all, key by key; what neither says is the default.
    pub fn of_primary(config: &Config) -> Result<Self> {
        let own = |retention: &Option<RetentionConfig>| retention.clone().unwrap_or_default();
        let general = own(&config.retention);
        let databases = config.databases.iter().map(|(name, database)| {
            let policy =
                policy(&[&own(&database.retention), &general], &format!("databases.{name}.retention"))?;
            Ok((name.clone(), policy))
        });
        Ok(Self { databases: databases.collect::<Result<_>>()?, general: policy(&[&general], "retention")? })
    }

    /// Returns those of the copy with this name. What the copy says counts before what its databases say.
    pub fn of_copy(config: &Config, name: &str) -> Result<Self> {
        let Some(copy) = config.copies.iter().find(|copy| copy.name == name) else {
            return Self::of_primary(config);
        };
        let own = |retention: &Option<RetentionConfig>| retention.clone().unwrap_or_default();
        let (of_copy, general) = (own(&copy.retention), own(&config.retention));
        let place = format!("retention of copy {name:?}");
        let databases = config.databases.iter().map(|(name, database)| {
            Ok((name.clone(), policy(&[&of_copy, &own(&database.retention), &general], &place)?))
        });
        Ok(Self {
            databases: databases.collect::<Result<_>>()?,
            general: policy(&[&of_copy, &general], &place)?,
        })
    }

    /// Says whether the configuration knows a database.
    pub fn know(&self, name: &str) -> bool {
        self.databases.contains_key(name)
    }

    /// Returns the policy of a database.
    pub fn of_database(&self, name: &str) -> &Policy {
        self.databases.get(name).unwrap_or(&self.general)
    }
}

/// Returns the policy that these say, the first one that names a key; the default where none does.
fn policy(said: &[&RetentionConfig], place: &str) -> Result<Policy> {
    let count = |key: fn(&RetentionConfig) -> Option<u32>, default| {
        said.iter().find_map(|retention| key(retention)).unwrap_or(default)
    };
    let within = said.iter().find_map(|retention| retention.within.as_deref()).unwrap_or("14d");
    let within: Span = within
        .parse()
        .map_err(|_| Error::usage(format!("`{place}.within` is no duration"), "write it as \"14d\""))?;
    let policy = Policy {
        last: count(|retention| retention.last, 0),
        hourly: count(|retention| retention.hourly, 24),
        daily: count(|retention| retention.daily, 30),
        weekly: count(|retention| retention.weekly, 12),
        monthly: count(|retention| retention.monthly, 24),
        yearly: count(|retention| retention.yearly, 10),
        within: Some(within).filter(|within| within.is_positive()),
        tags: said.iter().find_map(|retention| retention.tags.clone()).unwrap_or_default(),
    };
    match policy.keeps_nothing() {
        true => Err(Error::usage(
            format!("`{place}` keeps nothing"),
            "give one of its keys another value than 0, or leave it out",
        )),
        false => Ok(policy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    fn words(policies: &Policies, database: &str) -> String {
        policies.of_database(database).to_string()
    }

    #[test]
    fn default_policy_holds_without_a_configuration() {
        let policies = Policies::of_primary(&Config::default()).unwrap();
        let expected = "hourly 24, daily 30, weekly 12, monthly 24, yearly 10, within 14d";
        assert_eq!(words(&policies, "shop"), expected);
    }

    #[test]
    fn database_and_copy_change_single_keys_of_what_holds_for_all() {
        let config = parsed(
            "[retention]\ndaily = 7\n[databases.shop]\nsqlite = 'a'\nretention = { hourly = 0, within = '0d' }\n\
             [[copies]]\nname = 'archive'\nlocation = 'b'\nretention = { daily = 90, tags = ['release'] }\n",
        );
        let primary = Policies::of_primary(&config).unwrap();
        assert_eq!(
            words(&primary, "crm"),
            "hourly 24, daily 7, weekly 12, monthly 24, yearly 10, within 14d"
        );
        assert_eq!(words(&primary, "shop"), "daily 7, weekly 12, monthly 24, yearly 10");
        let copy = Policies::of_copy(&config, "archive").unwrap();
        assert_eq!(words(&copy, "shop"), "daily 90, weekly 12, monthly 24, yearly 10, tag release");
        assert!(words(&copy, "crm").starts_with("hourly 24, daily 90"));
    }

    #[test]
    fn policy_that_keeps_nothing_is_refused() {
        let nothing = "hourly = 0\ndaily = 0\nweekly = 0\nmonthly = 0\nyearly = 0\nwithin = '0d'\n";
        let error = Policies::of_primary(&parsed(&format!("[retention]\n{nothing}"))).unwrap_err();
        assert_eq!((error.exit_code(), error.to_string()), (2, "`retention` keeps nothing".to_owned()));
        let of_database = format!("[databases.shop]\nsqlite = 'a'\n[databases.shop.retention]\n{nothing}");
        assert!(Policies::of_primary(&parsed(&of_database)).is_err());
    }
}
