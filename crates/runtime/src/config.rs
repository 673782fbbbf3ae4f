//! Configuration: defaults in a TOML text that ships with the role, overridden by the environment.
//!
//! `INGEST__LOG__LINGER_MS=5` sets `linger_ms` in the section `log` of the role `ingest`.

use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use serde::de::DeserializeOwned;

/// Why a configuration can't be used; the text names the setting.
#[derive(Debug, thiserror::Error)]
#[error("configuration of {role}: {source}")]
pub struct ConfigError {
    role: String,
    source: Box<figment::Error>,
}

/// Reads `defaults` (TOML) and lays the environment's `ROLE__…` variables over it.
///
/// Errors: a setting that does not exist (where `T` denies unknown fields) or has a wrong type.
pub fn load<T: DeserializeOwned>(role: &str, defaults: &str) -> Result<T, ConfigError> {
    Figment::from(Toml::string(defaults))
        .merge(Env::prefixed(&format!("{}__", role.to_uppercase())).split("__"))
        .extract()
        .map_err(|source| ConfigError { role: role.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        linger_ms: u64,
    }

    #[test]
    fn defaults_are_read_and_a_wrong_one_is_named() {
        let ok: Example = load("example", "linger_ms = 5").unwrap();
        assert_eq!(ok.linger_ms, 5);
        let unknown = load::<Example>("example", "linger_ms = 5\nlingr = 1").unwrap_err();
        assert!(unknown.to_string().contains("lingr"), "{unknown}");
    }
}
