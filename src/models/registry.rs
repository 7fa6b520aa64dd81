//! The registry: a folder of bundles, `<name>/<version>/`, and one small file that says which
//! serves, `<name>/champion`.
//!
//! Versions are numbered from 1 and never reused or changed. A bundle appears whole or not at all
//! (written aside, then renamed), and so does a new champion. Two writers may race for a version:
//! one takes the next.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::bundle::{Bundle, Draft, LoadError, read_manifest};
use super::manifest::Manifest;
use crate::features::Calendar;

/// Most names and most versions a name that are listed.
pub const ENTRIES_MAX: usize = 10_000;

/// Longest name in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// How often a version that somebody else took is tried again.
const ATTEMPTS_MAX: u32 = 100;

/// The file that names the champion.
const CHAMPION: &str = "champion";

/// Why the registry cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The name is no name. Choose another.
    #[error(
        "model name {name:?} is not 1 to {NAME_BYTES_MAX} of a-z, 0-9, '-' and '_', starting with \
         a letter"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// There is no such bundle. List what there is.
    #[error("no bundle {name}/{version} in {}", dir.display())]
    NoBundle {
        /// The registry.
        dir: PathBuf,
        /// Which name.
        name: String,
        /// Which version.
        version: String,
    },
    /// The name has no champion. Promote a version.
    #[error("{name} has no champion in {}", dir.display())]
    NoChampion {
        /// The registry.
        dir: PathBuf,
        /// Which name.
        name: String,
    },
    /// The champion file does not hold a version. Promote one.
    #[error("{}: {text:?} is not a version", path.display())]
    ChampionMalformed {
        /// The file.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
    /// A folder holds more than is listed. Clear it up.
    #[error("{} holds more than {ENTRIES_MAX} entries", dir.display())]
    TooMany {
        /// Which folder.
        dir: PathBuf,
    },
    /// The file system refused.
    #[error("{}: {error}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        error: std::io::Error,
    },
    /// The bundle is there and is refused.
    #[error("bundle {name}/{version}: {error}")]
    Load {
        /// Which name.
        name: String,
        /// Which version.
        version: u32,
        /// Why.
        error: Box<LoadError>,
    },
}

/// One name in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// Its versions, ascending.
    pub versions: Vec<u32>,
    /// Which serves.
    pub champion: Option<u32>,
}

/// A folder of bundles. Opening it touches nothing; the first write makes it.
#[derive(Debug, Clone)]
pub struct Registry {
    dir: PathBuf,
}

impl Registry {
    /// The registry in a folder, which need not exist.
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a version stands.
    pub fn path(&self, name: &str, version: u32) -> PathBuf {
        self.dir.join(name).join(version.to_string())
    }

    /// Every name with its versions, by name.
    pub fn list(&self) -> Result<Vec<Entry>, RegistryError> {
        let mut entries = Vec::new();
        for name in names(&self.dir)?.into_iter().filter(|name| check_name(name).is_ok()) {
            let versions = self.versions(&name)?;
            let champion = self.champion(&name)?;
            if !versions.is_empty() || champion.is_some() {
                entries.push(Entry { name, versions, champion });
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The versions of a name, ascending; none if there is no such name.
    pub fn versions(&self, name: &str) -> Result<Vec<u32>, RegistryError> {
        check_name(name)?;
        let found = names(&self.dir.join(name))?;
        let mut versions: Vec<u32> = found.iter().filter_map(|text| version(text)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Which version of a name serves, if any.
    pub fn champion(&self, name: &str) -> Result<Option<u32>, RegistryError> {
        check_name(name)?;
        let path = self.dir.join(name).join(CHAMPION);
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes[..bytes.len().min(64)]).trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(RegistryError::Io { path, error }),
        };
        match version(&text) {
            Some(version) => Ok(Some(version)),
            None => Err(RegistryError::ChampionMalformed { path, text }),
        }
    }

    /// What a bundle says of itself, without loading its models.
    pub fn manifest(&self, name: &str, version: u32) -> Result<Manifest, RegistryError> {
        self.check_present(name, version)?;
        read_manifest(&self.path(name, version)).map_err(|error| load_error(name, version, error))
    }

    /// Loads a version.
    pub fn load(
        &self,
        name: &str,
        version: u32,
        calendar: &Calendar,
    ) -> Result<Bundle, RegistryError> {
        self.check_present(name, version)?;
        Bundle::load(&self.path(name, version), calendar)
            .map_err(|error| load_error(name, version, error))
    }

    /// Loads the champion of a name.
    pub fn load_champion(&self, name: &str, calendar: &Calendar) -> Result<Bundle, RegistryError> {
        match self.champion(name)? {
            Some(version) => self.load(name, version, calendar),
            None => Err(RegistryError::NoChampion { dir: self.dir.clone(), name: name.to_owned() }),
        }
    }

    /// Writes a draft under its name and gives the version that it got.
    pub fn write(&self, draft: &Draft) -> Result<u32, RegistryError> {
        let name = &draft.manifest.name;
        check_name(name)?;
        let folder = self.dir.join(name);
        fs::create_dir_all(&folder).map_err(|error| io(&folder, error))?;
        for attempt in 0..ATTEMPTS_MAX {
            let version = self.versions(name)?.last().copied().unwrap_or(0) + 1;
            let aside = folder.join(format!(".writing-{version}-{}-{attempt}", std::process::id()));
            let target = self.path(name, version);
            let written = write_folder(&aside, &draft.sealed(version))
                .and_then(|()| fs::rename(&aside, &target).map_err(|error| io(&target, error)));
            match written {
                Ok(()) => {
                    sync(&folder)?;
                    return Ok(version);
                }
                // Somebody else took the version: renaming onto a folder that holds files fails.
                Err(_) if target.is_dir() => {
                    let _ = fs::remove_dir_all(&aside);
                }
                Err(error) => {
                    let _ = fs::remove_dir_all(&aside);
                    return Err(error);
                }
            }
        }
        let error = std::io::Error::other("every version was taken by somebody else");
        Err(io(&folder, error))
    }

    /// Makes a version the champion of its name.
    pub fn promote(&self, name: &str, version: u32) -> Result<(), RegistryError> {
        self.check_present(name, version)?;
        let folder = self.dir.join(name);
        let aside = folder.join(format!(".champion-{}", std::process::id()));
        write_file(&aside, format!("{version}\n").as_bytes())?;
        let path = folder.join(CHAMPION);
        fs::rename(&aside, &path).map_err(|error| io(&path, error))?;
        sync(&folder)
    }

    fn check_present(&self, name: &str, version: u32) -> Result<(), RegistryError> {
        check_name(name)?;
        if self.path(name, version).is_dir() {
            return Ok(());
        }
        let (dir, name) = (self.dir.clone(), name.to_owned());
        Err(RegistryError::NoBundle { dir, name, version: version.to_string() })
    }
}

/// Checks that a text can be a model's name.
pub fn check_name(name: &str) -> Result<(), RegistryError> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    if starts && name.len() <= NAME_BYTES_MAX && name.chars().all(fits) && name != CHAMPION {
        return Ok(());
    }
    Err(RegistryError::Name { name: name.to_owned() })
}

/// A version as it is written: no sign, no leading zero, above 0.
fn version(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok()?;
    (number > 0 && number.to_string() == text).then_some(number)
}

fn names(dir: &Path) -> Result<Vec<String>, RegistryError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(dir, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| io(dir, error))?;
        if entry.path().is_dir() {
            names.extend(entry.file_name().into_string().ok());
        }
        if names.len() > ENTRIES_MAX {
            return Err(RegistryError::TooMany { dir: dir.to_owned() });
        }
    }
    Ok(names)
}

fn write_folder(
    dir: &Path,
    files: &std::collections::BTreeMap<String, Vec<u8>>,
) -> Result<(), RegistryError> {
    fs::create_dir_all(dir).map_err(|error| io(dir, error))?;
    for (name, content) in files {
        write_file(&dir.join(name), content)?;
    }
    sync(dir)
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), RegistryError> {
    let write = || {
        let mut file = fs::File::create(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|error| io(path, error))
}

/// Makes names in a folder durable.
fn sync(dir: &Path) -> Result<(), RegistryError> {
    fs::File::open(dir).and_then(|file| file.sync_all()).map_err(|error| io(dir, error))
}

fn io(path: &Path, error: std::io::Error) -> RegistryError {
    RegistryError::Io { path: path.to_owned(), error }
}

fn load_error(name: &str, version: u32, error: LoadError) -> RegistryError {
    RegistryError::Load { name: name.to_owned(), version, error: Box::new(error) }
}
