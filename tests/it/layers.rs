//! The module layering of `src/lib.rs`, and files that nobody declared.
//!
//! Source is read as text: `crate::` paths and `use` trees, outside comments and texts. Modules of
//! one layer may use each other, but not in a circle.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Layers = BTreeMap<String, u32>;
/// Module to module, with a place where it happens.
type Uses = BTreeMap<(String, String), String>;

#[test]
fn modules_use_only_lower_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let layers = table(&fs::read_to_string(root.join("lib.rs")).unwrap());
    let faults = breaches(&layers, &uses(&root));
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_module_stands_in_the_table_and_every_row_has_its_module() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let layers = table(&fs::read_to_string(root.join("lib.rs")).unwrap());
    let listed: BTreeSet<String> = layers.into_keys().collect();
    let present: BTreeSet<String> =
        sources(&root).iter().filter_map(|path| module_of(&root, path)).collect();
    assert_eq!(listed, present, "the table in lib.rs (left) against src/ (right)");
}

#[test]
fn no_source_or_test_file_is_forgotten() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = sources(&package.join("src"));
    files.extend(sources(&package.join("tests/it")));
    let forgotten: Vec<_> = files.iter().filter(|path| !is_declared(path)).collect();
    assert!(forgotten.is_empty(), "no `mod` line for {forgotten:?}");
}

#[test]
fn breaches_are_found() {
    let layers = table("//! | 0 | `low` | x |\n//! | 1 | `mid` | x |\n//! | 1 | `side` | x |\n");
    let check = |text: &str, from: &str| {
        let uses = found_in(text).into_iter().filter(|to| to != from);
        let uses: Uses = uses.map(|to| ((from.to_owned(), to), "somewhere".to_owned())).collect();
        breaches(&layers, &uses).len()
    };
    assert_eq!(check("use crate::low::Thing;", "mid"), 0);
    assert_eq!(check("use crate::mid::Thing;", "low"), 1);
    assert_eq!(check("use crate::{low::{A, b::C}, mid};", "low"), 1);
    assert_eq!(check("fn f() { crate::mid::g() }", "low"), 1);
    assert_eq!(check("// crate::mid\n/* crate::mid */ /// [`crate::mid`]\n", "low"), 0);
    assert_eq!(check(r#"let a = "crate::mid"; let b = '"'; let c = "\"crate::mid";"#, "low"), 0);
    assert_eq!(check("macro_rules! m { () => { $crate::mid::x() } }", "low"), 1);
    assert_eq!(check("use crate::unlisted::X;", "mid"), 1);
}

#[test]
fn circles_within_a_layer_are_found() {
    let layers = table("//! | 1 | `a` | x |\n//! | 1 | `b` | x |\n//! | 1 | `c` | x |\n");
    let uses = |pairs: &[(&str, &str)]| -> Uses {
        pairs.iter().map(|(from, to)| (((*from).into(), (*to).into()), "x".into())).collect()
    };
    assert_eq!(breaches(&layers, &uses(&[("a", "b"), ("b", "c")])), Vec::<String>::new());
    assert_eq!(breaches(&layers, &uses(&[("a", "b"), ("b", "c"), ("c", "a")])).len(), 3);
}

/// The rows `| layer | module | …` of the table.
fn table(text: &str) -> Layers {
    text.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("//! |")?.split('|').map(str::trim);
            let layer = cells.next()?.parse().ok()?;
            Some((cells.next()?.trim_matches('`').to_owned(), layer))
        })
        .collect()
}

fn breaches(layers: &Layers, uses: &Uses) -> Vec<String> {
    let mut faults = Vec::new();
    let mut level: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for ((from, to), place) in uses {
        match (layers.get(from), layers.get(to)) {
            (Some(a), Some(b)) if a < b => {
                faults.push(format!("{place}: {from} (layer {a}) uses {to} (layer {b})"));
            }
            (Some(a), Some(b)) if a == b => level.entry(from).or_default().push(to),
            (Some(_), Some(_)) => {}
            (None, _) => faults.push(format!("{place}: {from} is not in the table")),
            (_, None) => faults.push(format!("{place}: {from} uses {to}, not in the table")),
        }
    }
    for &start in level.keys() {
        if reaches(&level, start, start, &mut BTreeSet::new()) {
            faults.push(format!("{start} uses itself by way of its own layer"));
        }
    }
    faults
}

fn reaches<'a>(
    level: &BTreeMap<&str, Vec<&'a str>>,
    from: &str,
    goal: &str,
    seen: &mut BTreeSet<&'a str>,
) -> bool {
    let next = level.get(from).map(Vec::as_slice).unwrap_or_default();
    next.iter().any(|&to| to == goal || (seen.insert(to) && reaches(level, to, goal, seen)))
}

fn uses(root: &Path) -> Uses {
    let mut uses = Uses::new();
    for path in sources(root) {
        let Some(from) = module_of(root, &path) else { continue };
        for to in found_in(&fs::read_to_string(&path).unwrap()) {
            if to != from {
                uses.entry((from.clone(), to)).or_insert_with(|| path.display().to_string());
            }
        }
    }
    uses
}

/// The top module of a source file; none for the root files and the binary's own.
fn module_of(root: &Path, path: &Path) -> Option<String> {
    let first = path.strip_prefix(root).unwrap().iter().next()?.to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!["lib", "main", "cli"].contains(&name)).then(|| name.to_owned())
}

/// Modules named by `crate::x` or `crate::{x, y::z}`.
fn found_in(text: &str) -> BTreeSet<String> {
    let code = without_comments_and_texts(text);
    let mut modules = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = code[at + "crate::".len()..].trim_start();
        match rest.strip_prefix('{') {
            Some(group) => modules.extend(heads(group)),
            None => modules.extend(head(rest)),
        }
    }
    modules
}

/// The first name of each item of a `use` group, of which the brace was taken already.
fn heads(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut items = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ if depth == 0 => items.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    items.iter().filter_map(|item| head(item.trim_start())).collect()
}

/// A leading module name; types and constants at the root do not count.
fn head(path: &str) -> Option<String> {
    let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (name.starts_with(char::is_lowercase) && name != "self").then_some(name)
}

fn without_comments_and_texts(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_text(rest) {
            length
        } else if c == '"' {
            text_length(rest)
        } else if c == '\'' {
            character(rest)
        } else {
            0
        };
        if skipped > 0 {
            code.push(' ');
            rest = &rest[skipped..];
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    code
}

fn raw_text(rest: &str) -> Option<usize> {
    let marks = rest.strip_prefix('r')?;
    let hashes = marks.chars().take_while(|c| *c == '#').count();
    let inner = marks[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inner.find(&end)? + end.len();
    Some(1 + hashes + 1 + length)
}

fn text_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character literal, 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => rest[2..].find('\'').map_or(0, |end| end + 3).max(4),
        Some((at, c)) if rest[at + c.len_utf8()..].starts_with('\'') => at + c.len_utf8() + 1,
        _ => 0,
    }
}

fn is_declared(path: &Path) -> bool {
    let stem = path.file_stem().unwrap().to_str().unwrap();
    let folder = path.parent().unwrap();
    let root = ["lib", "main"].contains(&stem);
    let (name, above) = match stem {
        "mod" => (folder.file_name().unwrap().to_str().unwrap(), folder.parent().unwrap()),
        _ => (stem, folder),
    };
    let line = format!("mod {name};");
    let candidates = [
        above.join("mod.rs"),
        above.join("lib.rs"),
        above.join("main.rs"),
        above.with_extension("rs"),
    ];
    root || candidates.iter().filter(|file| *file != path).any(|file| {
        fs::read_to_string(file).is_ok_and(|text| {
            let code = without_comments_and_texts(&text);
            code.lines().any(|code| code.trim_end().ends_with(&line))
        })
    })
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
