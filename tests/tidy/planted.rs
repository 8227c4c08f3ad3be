//! One violation of each rule, planted in a small tidy house: the test that keeps the house is seen to fail.

use super::{Tree, check};

/// A small tidy house with one more file in it, which the crate's root opens; what is found.
fn planted(path: &str, text: &str) -> Vec<String> {
    let mut tree: Tree = [
        (
            "src/lib.rs",
            "//! Root.\npub mod model;\npub mod registry;\npub mod storage;\npub mod node;\npub mod wire;\n",
        ),
        ("src/model/mod.rs", "//! Nouns.\nmod id;\npub use id::Id;\n"),
        ("src/model/id.rs", "//! Ids.\npub struct Id;\n"),
        (
            "src/registry/mod.rs",
            "//! State.\nmod extra;\nuse crate::model::Id;\nuse std::time::Duration;\n",
        ),
        ("src/registry/extra.rs", "//! More.\nuse super::*;\n"),
        ("src/storage/mod.rs", "//! Bytes.\nuse rocksdb::DB;\n"),
        ("src/node/mod.rs", "//! Member.\nuse crate::model::Id;\n"),
        (
            "src/wire/mod.rs",
            "//! Messages.\nuse crate::{model::Id, registry as state};\n",
        ),
    ]
    .into_iter()
    .map(|(path, text)| (path.to_owned(), text.to_owned()))
    .collect();
    tree.insert(path.to_owned(), text.to_owned());
    check(&tree)
}

/// Plants a file and expects exactly one finding, which says this.
fn expect_found(path: &str, text: &str, what: &str) {
    let found = planted(path, text);
    assert!(
        found.len() == 1 && found[0].contains(what),
        "wanted one finding of `{what}`, got {found:#?}"
    );
}

#[test]
fn a_tidy_tree_has_no_findings() {
    assert_eq!(
        planted("src/registry/extra.rs", "//! More.\nuse super::*;\n"),
        Vec::<String>::new()
    );
}

#[test]
fn an_import_that_points_up_is_found_however_it_is_written() {
    for import in [
        "use crate::node::Node;",
        "use crate::{model::Id, node::{self, Node}};",
        "use super::super::node;",
        "fn f(n: &crate::node::Node) {}",
        "mod tests { use super::super::super::node::Node; }",
        "pub(crate) use crate::node as below;",
    ] {
        expect_found(
            "src/registry/extra.rs",
            &format!("//! More.\n{import}\n"),
            "`registry` must not know of `node`",
        );
    }
}

#[test]
fn naming_a_crate_or_a_clock_that_the_room_never_names_is_found() {
    let file = "src/registry/extra.rs";
    for (import, what) in [
        ("use tokio::sync::mpsc;", "`registry` never names `tokio`"),
        ("fn f() { tokio::spawn(g()); }", "`registry` never names `tokio`"),
        (
            "use std::{fmt, time::{Duration, Instant}};",
            "`registry` never names `std::time::Instant`",
        ),
        (
            "fn f() -> std::time::SystemTime { g() }",
            "`registry` never names `std::time::SystemTime`",
        ),
        ("use std::time;", "`registry` never names `std::time::Instant`"),
        ("use std::time::*;", "`registry` never names `std::time::Instant`"),
    ] {
        expect_found(file, &format!("//! More.\n{import}\n"), what);
    }
    expect_found(
        "src/node/mod.rs",
        "//! Member.\nuse tonic::Status;\n",
        "`node` never names `tonic`",
    );
    expect_found(
        "src/node/mod.rs",
        "//! Member.\nuse rocksdb::DB;\n",
        "`node` never names `rocksdb`",
    );
    expect_found(
        "src/storage/mod.rs",
        "//! Bytes.\nuse openraft::Vote;\n",
        "`storage` never names `openraft`",
    );
}

#[test]
fn comments_and_texts_are_not_code() {
    let text = "//! More: crate::node, `todo!()`.\n/* use tokio; /* nested */ dbg!(1) */\nconst A: &str = \"crate::node todo!()\";\n\
                const B: &str = r#\"use tokio::\"x\";\"#;\nconst C: char = '\"';\nfn f<'a>(x: &'a str) -> &'a str { x }\n";
    assert_eq!(planted("src/registry/extra.rs", text), Vec::<String>::new());
}

#[test]
fn a_file_without_a_door_comment_is_found() {
    expect_found(
        "src/registry/extra.rs",
        "// More.\nfn f() {}\n",
        "does not open with `//!`",
    );
}

#[test]
fn a_file_that_no_mod_leads_to_is_found() {
    expect_found(
        "src/registry/lost.rs",
        "//! Lost.\n",
        "src/registry/lost.rs: no `mod` leads here",
    );
    expect_found(
        "tests/steps/lost.rs",
        "//! Lost.\n",
        "tests/steps/lost.rs: no `mod` leads here",
    );
}

#[test]
fn leftovers_of_work_in_progress_are_found() {
    expect_found("src/registry/extra.rs", "//! More.\nfn f() { todo!() }\n", "`todo!`");
    expect_found("src/registry/extra.rs", "//! More.\nfn f() { dbg!(1); }\n", "`dbg!`");
    expect_found(
        "src/registry/extra.rs",
        "//! More.\nfn f() { unimplemented!(\"later\") }\n",
        "`unimplemented!`",
    );
}

#[test]
fn a_lint_silenced_without_a_reason_is_found() {
    let file = "src/registry/extra.rs";
    for attribute in [
        "#[allow(dead_code)]",
        "#![allow(dead_code)]",
        "#[cfg_attr(test, allow(dead_code))]",
        "#[expect(dead_code)]",
    ] {
        expect_found(
            file,
            &format!("//! More.\n{attribute}\nfn f() {{}}\n"),
            "without its reason",
        );
    }
    let reasoned = "//! More.\n#[allow(dead_code, reason = \"a reason\")]\nfn f() { x.expect(\"why\"); }\n";
    assert_eq!(planted(file, reasoned), Vec::<String>::new());
}

#[test]
fn a_room_that_is_not_in_the_plan_is_found() {
    let mut tree = Tree::new();
    tree.insert("src/lib.rs".to_owned(), "//! Root.\npub mod attic;\n".to_owned());
    tree.insert("src/attic.rs".to_owned(), "//! Old things.\n".to_owned());
    let found = check(&tree);
    assert!(
        found.len() == 1 && found[0].contains("room `attic` is not in the plan"),
        "{found:?}"
    );
}

#[test]
fn a_circle_of_rooms_is_found_even_where_each_step_is_forbidden_too() {
    let found = planted("src/registry/extra.rs", "//! More.\nuse crate::node;\n");
    assert!(
        !found.iter().any(|line| line.contains("circle")),
        "registry -> node alone: {found:?}"
    );
    let found = planted("src/model/id.rs", "//! Ids.\nuse crate::registry;\npub struct Id;\n");
    assert!(
        found
            .iter()
            .any(|line| line.contains("circle: model -> registry -> model")),
        "{found:?}"
    );
}

#[test]
fn any_text_is_read_to_its_end_also_what_is_no_rust() {
    let text = "use a::{r#type, b::{self, *}, #[cfg(x)] c as d, 'e, \"f\", ::g}; #![allow(x, reason = \"y\")] mod m { use super::n; }\n\
                fn f<'a>() -> impl A + use<'a> { b'\\''; r##\"x\"#\"##; /* /* */ */ todo!() } ] } use { use } :: use ::";
    for (end, _) in text.char_indices() {
        for begin in [0, end / 2] {
            let part = text.get(begin..end).unwrap_or_default();
            check(&Tree::from([("src/model/part.rs".to_owned(), part.to_owned())]));
        }
    }
}
