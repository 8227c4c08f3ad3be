//! Keeps the house: which room may know of which, what a room never names, and the manners of every file.
//!
//! It reads the tree as text, with the standard library alone, so that it runs in a second and nothing can make it skip.
//! [`check`] takes the tree as a map from path to text: `tidy/planted.rs` plants one violation of each rule in a small tree
//! and expects it to be found, and [`the_house_is_tidy`] hands it the real one. The plan stands in `tidy/plan.rs`.

#[path = "tidy/plan.rs"]
mod plan;
#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/source.rs"]
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use plan::{MAIN_IMPORTS, ROOMS};
use source::{Source, Use};

/// A tree of Rust files: path from the checkout, with `/`, to text.
type Tree = BTreeMap<String, String>;

/// Everything that is wrong with the tree, a line each.
fn check(tree: &Tree) -> Vec<String> {
    let sources: BTreeMap<&str, Source> = tree
        .iter()
        .map(|(path, text)| (path.as_str(), Source::read(text)))
        .collect();
    let mut found = Vec::new();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (&path, source) in &sources {
        found.extend(manners(path, &tree[path], source));
        if let Some(place) = Place::of(path) {
            found.extend(walls(path, &place, source, &mut edges));
        }
    }
    found.extend(orphans(&sources));
    found.extend(cycle(&edges));
    // `use crate::a::{self, B}` is one mistake, not two.
    found.dedup();
    found
}

/// A file of `src/`: its room, and its module path from the crate's root.
struct Place {
    room: String,
    module: Vec<String>,
    imports: &'static [&'static str],
    never: &'static [&'static str],
}

impl Place {
    /// `None` for the crate's root, which opens every room, and for files outside `src/`.
    fn of(path: &str) -> Option<Self> {
        let inside = path.strip_prefix("src/")?.strip_suffix(".rs")?;
        let mut module: Vec<String> = inside.split('/').map(str::to_owned).collect();
        if module == ["lib"] {
            return None;
        }
        if module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        let room = module.first()?.clone();
        let (imports, never): (&[&str], &[&str]) = match ROOMS.iter().find(|known| known.name == room) {
            Some(known) => (known.imports, known.never),
            None if room == "bin" => (MAIN_IMPORTS, &["openraft", "rocksdb"]),
            None => (&[], &[]),
        };
        Some(Self {
            room,
            module,
            imports,
            never,
        })
    }
}

/// The import rules of one file; what it imports is added to `edges`.
fn walls(path: &str, place: &Place, source: &Source, edges: &mut BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut found = Vec::new();
    if place.room != "bin" && !ROOMS.iter().any(|known| known.name == place.room) {
        found.push(format!(
            "{path}: room `{}` is not in the plan (tests/tidy.rs, ARCHITECTURE.md)",
            place.room
        ));
    }
    for used in &source.uses {
        match target(&place.module, used) {
            Target::Room(room) if room == place.room => {}
            Target::Room(room) => {
                if !place.imports.contains(&room.as_str()) {
                    found.push(format!(
                        "{path}:{}: `{}` must not know of `{room}`",
                        used.line, place.room
                    ));
                }
                edges.entry(place.room.clone()).or_default().insert(room);
            }
            Target::Root => found.push(format!("{path}:{}: names the whole crate: say which room", used.line)),
            Target::Outside => {
                if let Some(banned) = place.never.iter().find(|banned| names(&used.path, banned)) {
                    found.push(format!("{path}:{}: `{}` never names `{banned}`", used.line, place.room));
                }
            }
        }
    }
    found
}

/// Where a path leads.
enum Target {
    Room(String),
    Root,
    Outside,
}

fn target(module: &[String], used: &Use) -> Target {
    let first = used.path[0].as_str();
    let (mut at, rest): (Vec<&str>, &[String]) = match first {
        // In a binary the library goes by its name.
        "crate" | "roster" => (Vec::new(), &used.path[1..]),
        "super" => {
            let ups = used.path.iter().take_while(|segment| *segment == "super").count();
            let mut at: Vec<&str> = module.iter().chain(&used.inside).map(String::as_str).collect();
            at.truncate(at.len().saturating_sub(ups));
            (at, &used.path[ups..])
        }
        _ => return Target::Outside,
    };
    at.extend(rest.iter().map(String::as_str));
    match at.first() {
        None | Some(&"*") => Target::Root,
        Some(room) => Target::Room((*room).to_owned()),
    }
}

/// Whether a path names what is banned: the thing, something in it, or the whole module in which it stands.
fn names(path: &[String], banned: &str) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let banned: Vec<&str> = banned.split("::").collect();
    let around = &banned[..banned.len() - 1];
    let whole_module = path.strip_suffix(&["*"]).unwrap_or(&path);
    path.starts_with(&banned) || (!around.is_empty() && whole_module == around)
}

/// What every file keeps, wherever it stands.
fn manners(path: &str, text: &str, source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push(format!("{path}:1: does not open with `//!`: say what the file owns"));
    }
    for (line, name) in &source.macros {
        if ["todo", "dbg", "unimplemented"].contains(&name.as_str()) {
            found.push(format!("{path}:{line}: `{name}!` is for a desk, not for the house"));
        }
    }
    for line in &source.silent_allows {
        found.push(format!(
            "{path}:{line}: an `allow` or `expect` of a lint without its reason"
        ));
    }
    found
}

/// Files that no `mod` leads to: they look like code and are none.
fn orphans(sources: &BTreeMap<&str, Source>) -> Vec<String> {
    let is_root = |path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        matches!(
            parts.as_slice(),
            ["build.rs"]
                | ["src", "lib.rs" | "main.rs"]
                | ["src", "bin", _]
                | ["src", "bin", _, "main.rs"]
                | ["tests" | "examples" | "benches", _]
                | ["tests" | "examples" | "benches", _, "main.rs"]
                | ["tests", "faults", "faults.rs" | "simulation.rs"]
                // Workspaces of their own.
                | ["tests", "fuzz", "lib.rs" | "libfuzzer.rs"]
                | ["benches", _, "src", "lib.rs" | "main.rs"]
                | ["benches", _, "benches", _]
        )
    };
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<&str> = sources.keys().copied().filter(|path| is_root(path)).collect();
    while let Some(path) = waiting.pop() {
        if !reached.insert(path) {
            continue;
        }
        let stem = path.strip_suffix(".rs").unwrap_or(path);
        let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
        // The modules of a door or a root stand beside it, those of another file in a folder of its name.
        let base = if is_root(path) || name == "mod" {
            folder.to_owned()
        } else {
            stem.to_owned()
        };
        for module in &source_of(sources, path).modules {
            let candidates = match &module.at {
                Some(at) => vec![format!("{folder}/{at}")],
                None => {
                    let way = module
                        .inside
                        .iter()
                        .chain([&module.name])
                        .fold(base.clone(), |way, part| format!("{way}/{part}"));
                    vec![format!("{way}.rs"), format!("{way}/mod.rs")]
                }
            };
            waiting.extend(
                candidates
                    .iter()
                    .filter_map(|file| sources.get_key_value(file.as_str()))
                    .map(|(key, _)| *key),
            );
        }
    }
    let lost = sources.keys().filter(|path| !reached.contains(*path));
    lost.map(|path| format!("{path}: no `mod` leads here")).collect()
}

fn source_of<'a>(sources: &'a BTreeMap<&str, Source>, path: &str) -> &'a Source {
    sources.get(path).expect("only paths of the tree are walked")
}

/// A way from a room back to itself, if there is one.
fn cycle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<String> {
    fn walk<'a>(
        room: &'a str,
        edges: &'a BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<String> {
        if let Some(start) = way.iter().position(|passed| *passed == room) {
            return Some(format!("rooms in a circle: {} -> {room}", way[start..].join(" -> ")));
        }
        if done.contains(room) {
            return None;
        }
        way.push(room);
        let found = edges
            .get(room)
            .into_iter()
            .flatten()
            .find_map(|next| walk(next, edges, way, done));
        way.pop();
        done.insert(room);
        found
    }
    let mut done = BTreeSet::new();
    edges
        .keys()
        .find_map(|room| walk(room, edges, &mut Vec::new(), &mut done))
}

/// Adds the Rust files under a folder of the checkout.
fn gather(tree: &mut Tree, checkout: &Path, folder: &str) {
    let Ok(entries) = fs::read_dir(checkout.join(folder)) else {
        return;
    };
    for entry in entries {
        let entry = entry.expect("the checkout can be read");
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            gather(tree, checkout, &path);
        } else if path.ends_with(".rs") {
            tree.insert(path, fs::read_to_string(entry.path()).expect("sources are text"));
        }
    }
}

#[test]
fn the_house_is_tidy() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tree = Tree::new();
    for folder in ["src", "tests", "examples", "benches"] {
        gather(&mut tree, checkout, folder);
    }
    tree.insert(
        "build.rs".to_owned(),
        fs::read_to_string(checkout.join("build.rs")).expect("there is a build.rs"),
    );
    assert!(tree.contains_key("src/lib.rs"), "the tree was not found");
    let found = check(&tree);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn the_plan_itself_has_no_circle_and_names_only_its_rooms() {
    let edges: BTreeMap<String, BTreeSet<String>> = ROOMS
        .iter()
        .map(|room| {
            (
                room.name.to_owned(),
                room.imports.iter().map(|&below| below.to_owned()).collect(),
            )
        })
        .collect();
    assert_eq!(cycle(&edges), None);
    for below in edges.values().flatten() {
        assert!(edges.contains_key(below), "`{below}` is imported but is no room");
    }
}
