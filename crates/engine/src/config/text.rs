//! The configuration as text: an example for people, a schema for editors.

/// Returns a configuration with every key, its default, and what it does, all commented out.
pub fn example() -> &'static str {
    include_str!("example.toml")
}

/// Returns the JSON Schema of `dbkeep.toml`.
pub fn schema() -> &'static str {
    include_str!("schema.json")
}
