//! The scripts import each other without circles, and no file is long.

use std::collections::BTreeMap;

use crate::files;
use crate::lexer::{Token, script};

const MAX_LINES: usize = 300;

/// What a script imports of this project, by file name.
fn imports(source: &str) -> Vec<String> {
    let tokens = script(source);
    let is_import = |pair: &[Token]| match pair {
        [Token::Code(code), Token::Literal(name)] => {
            let code = code.trim_end();
            (code.ends_with("import") || code.ends_with("from") || code.ends_with("import("))
                .then(|| name.trim_start_matches("./").to_owned())
        }
        _ => None,
    };
    // The module of the texts is made from the table.
    tokens.windows(2).filter_map(is_import).filter(|name| name != "texts.${}.js").collect()
}

#[test]
fn scripts_import_each_other_without_circles() {
    let mut open: BTreeMap<String, Vec<String>> =
        files("static", ".js").into_iter().map(|(name, source)| (name, imports(&source))).collect();
    assert!(open["inbox.js"].contains(&"texts.js".to_owned()), "{open:?}");
    for (name, imported) in &open {
        assert!(imported.iter().all(|one| open.contains_key(one)), "{name}: {imported:?}");
    }
    // Again and again those go that need none of the others.
    loop {
        let free: Vec<String> = open
            .iter()
            .filter(|(_, imported)| imported.iter().all(|one| !open.contains_key(one)))
            .map(|(name, _)| name.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        open.retain(|name, _| !free.contains(name));
    }
    assert_eq!(open, BTreeMap::new(), "these, or some of them, import each other in a circle");
}

#[test]
fn no_file_of_the_pages_is_long() {
    for (name, text) in files("static", "").into_iter().chain(files("templates", "")) {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{name} has {lines} lines");
    }
}
