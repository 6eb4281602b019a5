//! Reads the configuration file, TOML or JSON.

use std::error::Error;
use std::path::Path;

use millpond_server::ServerConfig;

pub fn read(path: &Path) -> Result<ServerConfig, Box<dyn Error>> {
    let text = std::fs::read_to_string(path)?;
    let config: ServerConfig = match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => toml::from_str(&text)?,
        Some("json") => serde_json::from_str(&text)?,
        _ => return Err("its name must end in .toml or .json".into()),
    };
    if config.servers().is_empty() {
        return Err("there are no `servers` in it".into());
    }
    Ok(config)
}
