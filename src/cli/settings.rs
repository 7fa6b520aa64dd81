//! The flags by which commands find and override the configuration.

use std::path::PathBuf;

use clap::Args;
use presume::configuration::{Faults, Loaded, Overlay, Sources, load};

/// Where the configuration comes from. Flatten it into a command's arguments.
#[derive(Debug, Clone, Default, Args)]
pub struct Settings {
    /// Configuration file [default: presume.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Sets one key, such as `--set policy.mode=observe`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = overlay)]
    pub set: Vec<Overlay>,
}

impl Settings {
    /// File, environment and flags; `more` holds what a command's own flags say, and wins.
    pub fn load(&self, more: Vec<Overlay>) -> Result<Loaded, Faults> {
        load(&self.sources(more))
    }

    fn sources(&self, more: Vec<Overlay>) -> Sources {
        let flags = self.set.iter().cloned().chain(more).collect();
        Sources::from_process(self.config.clone(), flags)
    }
}

/// What a command's own flag says, if it was given.
pub fn flag(name: &str, key: &str, value: Option<impl ToString>) -> Option<Overlay> {
    let value = value?.to_string();
    Some(Overlay { key: key.to_owned(), value, origin: format!("flag {name}") })
}

fn overlay(text: &str) -> Result<Overlay, String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err("must be KEY=VALUE, such as policy.mode=observe".into());
    };
    let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
    if key.is_empty() || key.split('.').any(str::is_empty) {
        return Err(format!("{key:?} is not a key, such as policy.mode"));
    }
    Ok(Overlay { key, value, origin: "flag --set".into() })
}
