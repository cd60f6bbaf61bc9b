//! Each text that a template, a handler or a script asks for stands in the table, gets the arguments it names, and is
//! used by the part of the program whose table it stands in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::files;
use crate::lexer::{Token, expression, script};

const TABLES: &str = "src/http/pages/texts";

/// A text that is asked for somewhere.
#[derive(Debug)]
struct Use {
    #[allow(dead_code, reason = "shown when an assertion fails")]
    file: String,
    id: String,
    arguments: BTreeSet<String>,
}

/// The code of a template: what stands between braces, comments left out.
pub fn expressions(template: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = template;
    while let Some(start) = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min() {
        let close = match &rest[start..start + 2] {
            "{{" => "}}",
            "{%" => "%}",
            _ => "#}",
        };
        let end = start + rest[start..].find(close).expect("a brace is closed");
        if close != "#}" {
            found.push(&rest[start..end + 2]);
        }
        rest = &rest[end + 2..];
    }
    found
}

/// Whether code ends with a call of `function`.
pub fn calls(code: &str, function: &str) -> bool {
    let before = code.trim_end().strip_suffix('(').and_then(|code| code.strip_suffix(function));
    before.is_some_and(|before| !before.ends_with(|c: char| c.is_alphanumeric() || "_.$#".contains(c)))
}

/// The texts that `function` is asked for, with the names of the arguments: `separator` stands after each.
fn uses(file: &str, tokens: &[Token], function: &str, separator: char) -> Vec<Use> {
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let Token::Code(code) = token else { continue };
        let call = format!("{function}(");
        let mut names = code.match_indices(&call).map(|(at, name)| at + name.len());
        assert!(
            names.all(|end| !calls(&code[..end], function) || code[end..].trim().is_empty()),
            "{file}: an id is no literal in {code}"
        );
        if !calls(code, function) {
            continue;
        }
        let Some(Token::Literal(id)) = tokens.get(index + 1) else { panic!("{file}: no id after {code}") };
        let arguments = arguments(&tokens[index + 2..], separator);
        found.push(Use { file: file.to_owned(), id: id.clone(), arguments });
    }
    found
}

/// The names of the arguments from behind the id up to the end of the call.
fn arguments(tokens: &[Token], separator: char) -> BTreeSet<String> {
    let (mut depth, mut level, mut name) = (0, 0, String::new());
    let (mut is_name, mut names) = (false, BTreeSet::new());
    for token in tokens {
        let code = match token {
            Token::Code(code) => code.as_str(),
            Token::Literal(_) => "_",
        };
        for next in code.chars() {
            match next {
                ')' if depth == 0 => return names,
                // The arguments of a script are the members of an object.
                '{' if depth == 0 => (depth, level, is_name) = (1, 1, true),
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                _ => {}
            }
            let ends = next == separator || next == ',' || next == '}';
            if is_name && depth <= level && ends {
                let whole = std::mem::take(&mut name);
                if !whole.trim().is_empty() {
                    names.insert(whole.trim().to_owned());
                }
                is_name = false;
            } else if is_name && (next.is_alphanumeric() || next == '_') {
                name.push(next);
            }
            if next == ',' && depth == level {
                is_name = true;
            }
        }
    }
    panic!("a call has no end: {tokens:?}");
}

fn in_templates() -> Vec<Use> {
    let of = |(file, source): (String, String)| {
        let tokens: Vec<Token> = expressions(&source).into_iter().flat_map(expression).collect();
        uses(&file, &tokens, "t", '=')
    };
    files("templates", ".html").into_iter().flat_map(of).collect()
}

fn in_scripts() -> Vec<Use> {
    let of = |(file, source): (String, String)| uses(&file, &script(&source), "t", ':');
    files("static", ".js").into_iter().filter(|(file, _)| file != "texts.js").flat_map(of).collect()
}

/// Handlers ask by `text("…")`, without arguments.
fn in_handlers() -> Vec<Use> {
    let of = |(file, source): (String, String)| {
        let ids = source.split(" text(\"").flat_map(|part| part.split("(text(\"")).skip(1);
        let ids: Vec<_> = ids.map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
        ids.into_iter().map(move |id| Use { file: file.clone(), id, arguments: BTreeSet::new() })
    };
    files("src/http/pages", ".rs").into_iter().flat_map(of).collect()
}

/// A part of a table: the ids, with the arguments that the text names; of one with plural forms, `count` besides.
fn table(json: &Value, part: &str) -> BTreeMap<String, BTreeSet<String>> {
    let of = |text: &Value| match text {
        Value::String(text) => placeholders(text),
        Value::Object(forms) => {
            assert!(forms.contains_key("other"), "{text}");
            let named = forms.values().flat_map(|form| placeholders(form.as_str().unwrap()));
            named.chain(["count".to_owned()]).collect()
        }
        _ => panic!("{text} is no text"),
    };
    json[part].as_object().unwrap().iter().map(|(id, text)| (id.clone(), of(text))).collect()
}

fn placeholders(text: &str) -> BTreeSet<String> {
    text.split('{').skip(1).map(|rest| rest.split('}').next().unwrap().to_owned()).collect()
}

fn tables() -> Vec<(String, String, Value)> {
    let parsed = |(file, text): (String, String)| {
        let json = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        (file, text, json)
    };
    files(TABLES, ".json").into_iter().map(parsed).collect()
}

#[test]
fn each_text_that_is_asked_for_exists_and_gets_its_arguments() {
    for (language, _, json) in tables() {
        let (pages, scripts) = (table(&json, "pages"), table(&json, "scripts"));
        for one in in_templates().into_iter().chain(in_handlers()) {
            let named = pages.get(&one.id).or_else(|| scripts.get(&one.id));
            assert_eq!(named, Some(&one.arguments), "{language}: {one:?}");
        }
        for one in in_scripts() {
            assert_eq!(scripts.get(&one.id), Some(&one.arguments), "{language}: {one:?}");
        }
    }
}

#[test]
fn each_text_is_used_and_stands_where_it_is_needed() {
    let ids = |uses: Vec<Use>| uses.into_iter().map(|one| one.id).collect::<BTreeSet<_>>();
    let (scripts, mut pages) = (ids(in_scripts()), ids(in_templates()));
    pages.extend(ids(in_handlers()));
    for (language, text, json) in tables() {
        let of = |part| table(&json, part).into_keys().collect::<BTreeSet<_>>();
        assert_eq!(&of("scripts") - &scripts, BTreeSet::new(), "{language}: no script uses these");
        assert_eq!(&of("pages") - &pages, BTreeSet::new(), "{language}: no template or handler uses these");
        // Of a key that stands twice a parser takes only one.
        for id in of("scripts").iter().chain(&of("pages")) {
            assert_eq!(text.matches(&format!("\"{id}\":")).count(), 1, "{language}: {id}");
        }
    }
}

#[test]
fn uses_are_found_with_their_arguments() {
    let found = |tokens: Vec<Token>, separator| {
        let uses = uses("a file", &tokens, "t", separator);
        uses.into_iter()
            .map(|one| (one.id, one.arguments.into_iter().collect::<Vec<_>>().join(" ")))
            .collect::<Vec<_>>()
    };
    let some = |uses: &[(&str, &str)]| {
        uses.iter().map(|(id, names)| ((*id).to_owned(), (*names).to_owned())).collect::<Vec<_>>()
    };
    let source = "at('no'), t('a'), x ? t('b', { c, d: e(f, { g: 1 }), h: `${t('i', { j })}` }) : t('k');";
    let all = some(&[("a", ""), ("b", "c d h"), ("i", "j"), ("k", "")]);
    assert_eq!(found(script(source), ':'), all);
    let source = r#"{{ t("a") if b else t("c", d=e[:2]|f("g", h), i=t("j", k=1)) }}"#;
    let all = some(&[("a", ""), ("c", "d i"), ("j", "k")]);
    assert_eq!(found(expression(source), '='), all);
}
