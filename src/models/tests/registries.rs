use tempfile::TempDir;

use super::*;
use crate::models::{Registry, RegistryError};

#[test]
fn versions_count_up_and_a_champion_is_what_was_promoted() {
    let dir = TempDir::new().unwrap();
    let registry = Registry::open(dir.path().join("models"));
    assert!(registry.list().unwrap().is_empty());
    let draft = draft();
    assert_eq!(registry.write(&draft).unwrap(), 1);
    assert_eq!(registry.write(&draft).unwrap(), 2);
    assert_eq!(registry.champion("payments").unwrap(), None);
    let error = registry.load_champion("payments", &Calendar::default()).unwrap_err();
    assert!(matches!(error, RegistryError::NoChampion { .. }), "{error}");
    registry.promote("payments", 1).unwrap();
    registry.promote("payments", 2).unwrap();
    let bundle = registry.load_champion("payments", &Calendar::default()).unwrap();
    assert_eq!(bundle.id(), "payments/2");
    let text = std::fs::read_to_string(registry.dir().join("payments/champion")).unwrap();
    assert_eq!(text, "2\n");
    let entries = registry.list().unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].versions.as_slice(), entries[0].champion), (&[1, 2][..], Some(2)));
    assert_eq!(registry.manifest("payments", 1).unwrap().version, 1);
}

#[test]
fn writers_that_race_get_versions_of_their_own_and_leave_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let registry = Registry::open(dir.path());
    let draft = draft();
    let mut versions: Vec<u32> = std::thread::scope(|scope| {
        let write = || registry.write(&draft).unwrap();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(write)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    versions.sort_unstable();
    assert_eq!(versions, (1..=8).collect::<Vec<u32>>());
    let left = std::fs::read_dir(dir.path().join("payments")).unwrap().count();
    assert_eq!(left, 8);
    for version in versions {
        assert!(registry.load("payments", version, &Calendar::default()).is_ok());
    }
}

#[test]
fn names_and_versions_that_do_not_exist_are_said() {
    let dir = TempDir::new().unwrap();
    let registry = Registry::open(dir.path());
    for name in ["", "../x", "A", "1a", "champion", "a b", &"a".repeat(65)] {
        let error = registry.versions(name).unwrap_err();
        assert!(matches!(error, RegistryError::Name { .. }), "{name}: {error}");
    }
    for error in [
        registry.promote("payments", 7).unwrap_err(),
        registry.load("payments", 7, &Calendar::default()).unwrap_err(),
        registry.manifest("payments", 7).unwrap_err(),
    ] {
        assert!(error.to_string().contains("no bundle payments/7"), "{error}");
    }
}

#[test]
fn a_champion_file_with_nonsense_is_said() {
    let dir = TempDir::new().unwrap();
    let registry = Registry::open(dir.path());
    registry.write(&draft()).unwrap();
    for text in ["", "latest", "-1", "0", "01"] {
        std::fs::write(dir.path().join("payments/champion"), text).unwrap();
        let error = registry.champion("payments").unwrap_err();
        assert!(matches!(error, RegistryError::ChampionMalformed { .. }), "{text:?}: {error}");
    }
}

#[test]
fn a_refused_bundle_is_named() {
    let dir = TempDir::new().unwrap();
    let registry = Registry::open(dir.path());
    registry.write(&draft()).unwrap();
    std::fs::remove_file(registry.path("payments", 1).join("golden.json")).unwrap();
    let error = registry.load("payments", 1, &Calendar::default()).unwrap_err();
    assert!(error.to_string().starts_with("bundle payments/1:"), "{error}");
}
