//! No template and no script shows a text of its own: what people read stands in the table.
//!
//! Texts are found by what they look like, and by where they would be shown; what is no text all the same is listed.

use crate::files;
use crate::lexer::{Token, expression, script};
use crate::texts::{calls, expressions};

/// What templates show that is the same in every language: the product's name, names of the API, examples.
const NOT_TRANSLATED: [&str; 24] = [
    "Carillon",
    "listener",
    "publisher",
    "admin",
    "low",
    "normal",
    "high",
    "urgent",
    "info",
    "success",
    "warning",
    "error",
    "topic",
    "history",
    "cursor",
    "min_priority",
    "last",
    "presence",
    "alive",
    "order.paid",
    "room/7",
    "alice, bob",
    "1,000",
    // The id of an element.
    "entries",
];
/// Attributes that are shown or read out.
const SHOWN_ATTRIBUTES: [&str; 5] =
    ["aria-label=\"", "title=\"", "placeholder=\"", "alt=\"", "aria-description=\""];

/// How literals of scripts begin that look like texts and are none: states, selectors, measures, markup, protocols.
const NO_TEXTS: [&str; 14] = [
    "signed out",
    "catching up",
    "not permitted",
    "not connected",
    "carillon ${}",
    ".expiry time",
    "-${}px 0px",
    "0px 0px",
    "(min-width: ",
    "<svg ",
    "curl -sS ",
    "Idempotency-Key: ",
    "GET ${}",
    "AbortError",
];
/// Functions whose first argument is never shown: selectors, and errors for programmers.
const NOT_SHOWING: [&str; 9] = [
    "has",
    "querySelector",
    "querySelectorAll",
    "closest",
    "matches",
    "TypeError",
    "by",
    "createElement",
    "addEventListener",
];
/// Code that shows what follows it.
const SHOWING: [&str; 13] = [
    "textContent =",
    ".title =",
    "ariaLabel =",
    ".placeholder =",
    " notice(",
    " say(",
    ".say(",
    "arrived(",
    " wrong(",
    "offer(",
    "confirmed(",
    "showProgress(",
    "showAmount(",
];

fn has_letters(text: &str) -> bool {
    text.chars().any(char::is_alphabetic)
}

/// What the template shows that does not come from the table.
fn shown_by_template(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut markup = source.to_owned();
    for code in expressions(source) {
        // Of what is put out, the words that stand there for themselves.
        let tokens = expression(code.trim_matches(|c| "{}%-".contains(c)));
        for (index, token) in tokens.iter().enumerate() {
            let Token::Literal(text) = token else { continue };
            let before = match index.checked_sub(1).map(|index| &tokens[index]) {
                Some(Token::Code(code)) => code,
                _ => "",
            };
            if calls(before, "t") {
                continue;
            }
            let word = before.split_whitespace().last().unwrap_or_default();
            let is_put_out = code.starts_with("{{") && ["", "or", "else"].contains(&word);
            if has_letters(text) && (is_put_out || looks_like_text(text)) {
                found.push(text.clone());
            }
        }
        markup = markup.replacen(code, "", 1);
    }
    let markup = without(&without(&without(&markup, "{#", "#}"), "<pre", "</pre>"), "<code", "</code>");
    for tag in markup.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').unwrap_or((tag, ""));
        found.push(text.trim().to_owned());
        for attribute in SHOWN_ATTRIBUTES {
            found.extend(
                tag.split(attribute).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())),
            );
        }
    }
    found.retain(|text| has_letters(text) && !NOT_TRANSLATED.contains(&text.as_str()));
    found
}

fn without(text: &str, open: &str, close: &str) -> String {
    let mut parts = text.split(open);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| kept + part.split_once(close).map_or("", |(_, rest)| rest))
}

/// Several words, or one that begins a sentence, or letters that code does not use.
fn looks_like_text(text: &str) -> bool {
    let words = text.split_whitespace().filter(|word| has_letters(word)).count();
    let begins_a_sentence = text.starts_with(char::is_uppercase) && text.contains(char::is_lowercase);
    words > 1
        || (words == 1 && text.contains(' '))
        || begins_a_sentence
        || (has_letters(text) && !text.is_ascii())
}

/// What the script shows that does not come from the table.
fn shown_by_script(source: &str) -> Vec<String> {
    let tokens = script(source);
    // The code of the statement so far.
    let mut statement = String::new();
    let mut found = Vec::new();
    for token in &tokens {
        let text = match token {
            Token::Code(code) => {
                statement.push_str(code);
                if let Some(end) = code.rfind([';', '\n']) {
                    statement = code[end + 1..].to_owned();
                }
                continue;
            }
            Token::Literal(text) => text,
        };
        let shown = text.replace("${}", "");
        let before = statement.trim_end();
        let is_import = before.ends_with("from") || before.ends_with("import");
        let is_hidden = NOT_SHOWING.iter().any(|name| before.ends_with(&format!("{name}(")));
        let is_known = NO_TEXTS.iter().any(|known| text.starts_with(known));
        if is_import || is_hidden || is_known || calls(before, "t") || !has_letters(&shown) {
            statement.push('_');
            continue;
        }
        if looks_like_text(&shown) || is_shown(before) {
            found.push(text.clone());
        }
        statement.push('_');
    }
    found
}

/// Whether a literal behind this code would be shown, even if it is only a word.
fn is_shown(before: &str) -> bool {
    let code = format!(" {}", before.trim_start());
    let is_value = code.ends_with(['?', ':', '|', '(']) || (code.ends_with('=') && !code.ends_with("=="));
    is_value && !code.ends_with("Style:") && SHOWING.iter().any(|showing| code.contains(showing))
}

#[test]
fn no_template_shows_a_text_of_its_own() {
    for (file, source) in files("templates", ".html") {
        assert_eq!(shown_by_template(&source), Vec::<String>::new(), "{file}");
    }
}

#[test]
fn no_script_shows_a_text_of_its_own() {
    let mut all = Vec::new();
    for (file, source) in files("static", ".js") {
        all.extend(shown_by_script(&source).into_iter().map(|text| (file.clone(), text)));
    }
    assert_eq!(all, Vec::new());
}

#[test]
fn texts_of_their_own_are_found() {
    for template in [
        "<p>hello</p>",
        "<p>{{ t(\"a\") }} and more</p>",
        "<input placeholder=\"any\">",
        "<input title=\"{{ a }} ago\">",
        "{{ level or \"any\" }}",
        "{{ \"well\" if ok else t(\"a\") }}",
        "{{ row(a, \"Go there\") }}",
        "{% set title = \"Inbox\" %}",
    ] {
        assert_eq!(shown_by_template(template).len(), 1, "{template}");
    }
    for template in [
        "<p class=\"a b\">{{ t(\"a.b\", c=\"x\") }}</p>",
        "<code>CARILLON_TOKEN</code>",
        "{{ row(a, \"id\") }}{# A comment. #}",
        "<option>admin</option>",
    ] {
        assert_eq!(shown_by_template(template), Vec::<String>::new(), "{template}");
    }
    for script in [
        "notice('gone');",
        "by('x').textContent = isOk ? 'ok' : t('a');",
        "const NAMES = { a: 'An alert' };",
        "const text = `${count} new`;",
        "return 'Copied';",
        "say(`up to ${t('a')}`);",
    ] {
        assert_eq!(shown_by_script(script).len(), 1, "{script}");
    }
    for script in [
        "import { t } from './texts.js';",
        "by('say now').textContent = t('a.b', { c: d.e });",
        "throw new TypeError('not a cursor');",
        "element.querySelector('.a > .b');",
        "const state = 'live'; // A comment of words.",
        "const address = `/api/v1/${path}`;",
    ] {
        assert_eq!(shown_by_script(script), Vec::<String>::new(), "{script}");
    }
}
