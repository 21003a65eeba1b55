//! The shape of the source: imports go one way, and each side of the fence is named in one place only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

/// From the bottom up; a module may use what stands above it in this list, and itself.
const LAYERS: &[&[&str]] = &[
    &["protocol"],
    &["clock", "config", "metrics", "traces"],
    &["domain", "crypto"],
    &["store", "outbound", "logging"],
    &["flow"],
    &["http", "delivery"],
    &["app", "development", "tls"],
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The text above a file's unit tests.
fn product(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]").next().unwrap().to_owned()
}

fn library() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for path in sources(&root) {
        let relative = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        let module = relative.split(['/', '.']).next().unwrap().to_owned();
        if !matches!(module.as_str(), "lib" | "main" | "commands") && !relative.ends_with("tests.rs") {
            files.push((module, path.clone(), product(&path)));
        }
    }
    assert!(files.len() > 40, "the source was found");
    files
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (module, path, text) in library() {
        let own = layer_of(&module).unwrap_or_else(|| panic!("{module} has no layer"));
        for part in text.split("crate::").skip(1) {
            let used = part.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            let Some(layer) = layer_of(used) else { continue };
            if layer > own {
                wrong.push(format!("{} uses {used}", path.display()));
            }
        }
    }
    // Crypto opens the records that domain describes; domain's clients hold digests. These two are one layer.
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn diesel_is_named_by_the_store_alone_and_actix_by_the_edge() {
    for (module, path, text) in library() {
        assert!(module == "store" || !text.contains("diesel"), "{}", path.display());
        let edge = matches!(module.as_str(), "http" | "app" | "tls" | "delivery");
        assert!(edge || !text.contains("actix_web"), "{}", path.display());
        assert!(module != "protocol" || !text.contains("std::fs"), "{}", path.display());
    }
}

#[test]
fn templates_escape_everything_and_bring_no_inline_code() {
    for path in {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
        let mut all = Vec::new();
        for folder in [folder.clone(), folder.join("pages"), folder.join("partials")] {
            all.extend(
                std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()),
            );
        }
        assert!(all.len() > 15);
        all
    } {
        let text = std::fs::read_to_string(&path).unwrap();
        for forbidden in ["|safe", "| safe", "<style", " style=", " onclick", " onload", "javascript:"] {
            assert!(!text.contains(forbidden), "s6 {} has {forbidden}", path.display());
        }
    }
}
