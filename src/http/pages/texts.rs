//! The texts of the pages: one table for each language, `texts/en.json`, which templates, handlers and scripts share.
//!
//! A text has an id such as `inbox.empty` and names its arguments in braces: `{count} new`. If it depends on a number,
//! it has a form for each plural category (as CLDR calls them: `one`, `other` …), chosen by the argument `count`.
//!
//! - Templates: `{{ t("inbox.unread", count=unread) }}`. Texts and arguments are escaped, except for arguments that are
//!   markup already (`{% set time %}<time>…</time>{% endset %}`).
//! - Handlers: [`Texts::plain`].
//! - Scripts: `t('inbox.new', { count })` of `static/texts.js`, which loads the table's part `scripts` as a module.
//!
//! `tests/page_texts.rs` holds that each text exists, is used and gets its arguments, and that no other text is shown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, HtmlEscape, Value};
use serde::{Deserialize, Serialize};

/// The language of the pages, as in `lang` of HTML.
pub const LANGUAGE: &str = "en";

/// The texts of one language.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Texts {
    /// Of templates and handlers only.
    pages: BTreeMap<String, Text>,
    /// Of scripts, and of templates as well where both show the same.
    scripts: BTreeMap<String, Text>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    /// By plural category.
    Counted(BTreeMap<String, String>),
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Text(&'a str),
    Argument(&'a str),
}

impl Texts {
    /// The table of [`LANGUAGE`].
    pub fn get() -> &'static Self {
        static TEXTS: LazyLock<Texts> = LazyLock::new(|| {
            serde_json::from_str(include_str!("texts/en.json")).expect("the table of texts is valid")
        });
        &TEXTS
    }

    /// A text without arguments, unescaped. The id itself if there is no such text.
    pub fn plain<'a>(&'a self, id: &'a str) -> &'a str {
        match self.find(id) {
            Some(Text::Plain(text)) => text,
            _ => id,
        }
    }

    /// A text as markup, with these arguments.
    ///
    /// Fails if there is no such text, an argument is missing, or one is not used.
    pub fn markup(&self, id: &str, arguments: &Kwargs) -> Result<Value, Error> {
        let wrong = |what: String| Error::new(ErrorKind::InvalidOperation, format!("the text {id} {what}"));
        let text = match self.find(id).ok_or_else(|| wrong("does not exist".into()))? {
            Text::Plain(text) => text,
            Text::Counted(forms) => {
                let category = category(arguments.get("count")?);
                forms.get(category).ok_or_else(|| wrong(format!("has no form '{category}'")))?
            }
        };
        let mut markup = String::with_capacity(text.len());
        for part in parts(text) {
            match part {
                Part::Text(text) => write!(markup, "{}", HtmlEscape(text)),
                Part::Argument(name) if !arguments.has(name) => {
                    return Err(wrong(format!("needs the argument '{name}'")));
                }
                Part::Argument(name) => {
                    let value: Value = arguments.get(name)?;
                    if value.is_safe() {
                        write!(markup, "{value}")
                    } else {
                        write!(markup, "{}", HtmlEscape(&value.to_string()))
                    }
                }
            }
            .map_err(|error| wrong(error.to_string()))?;
        }
        arguments.assert_all_used()?;
        Ok(Value::from_safe_string(markup))
    }

    /// The module that `static/texts.js` loads: the texts of scripts by their ids.
    pub fn module(&self) -> String {
        let texts = serde_json::to_string(&self.scripts).unwrap_or_default();
        format!("export default {texts};\n")
    }

    fn find(&self, id: &str) -> Option<&Text> {
        self.pages.get(id).or_else(|| self.scripts.get(id))
    }
}

/// The plural category of a number in [`LANGUAGE`]; `Intl.PluralRules` is the same for scripts.
fn category(count: i64) -> &'static str {
    if count == 1 { "one" } else { "other" }
}

/// The text between the arguments, and their names. A brace that is not closed is text.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, (name, after))) =
        rest.split_once('{').and_then(|(before, after)| Some((before, after.split_once('}')?)))
    {
        parts.extend([Part::Text(before), Part::Argument(name)]);
        rest = after;
    }
    parts.push(Part::Text(rest));
    parts
}

#[cfg(test)]
mod tests {
    use minijinja::{Environment, context};

    use super::*;

    fn rendered(texts: &'static str, template: &'static str) -> Result<String, Error> {
        let texts: Texts = serde_json::from_str(texts).unwrap();
        let mut environment = Environment::new();
        environment.add_function("t", move |id: &str, arguments: Kwargs| texts.markup(id, &arguments));
        environment.add_template("page.html", template)?;
        environment.get_template("page.html")?.render(context! { name => "<i>", number => 2 })
    }

    #[test]
    fn texts_and_arguments_are_escaped_unless_they_are_markup() {
        let texts =
            r#"{"pages": {"a": "{name} & {time}!"}, "scripts": {"b": {"one": "1", "other": "{count} <"}}}"#;
        let template = r#"{% set time %}<b>{{ name }}</b>{% endset %}{{ t("a", name=name, time=time) }}"#;
        assert_eq!(rendered(texts, template).unwrap(), "&lt;i&gt; &amp; <b>&lt;i&gt;</b>!");
        assert_eq!(rendered(texts, r#"{{ t("b", count=1) }}{{ t("b", count=number) }}"#).unwrap(), "12 &lt;");
        assert_eq!(
            rendered(texts, r#"<p title="{{ t("a", name="\"", time=t("b", count=1)) }}">"#).unwrap(),
            { r#"<p title="&quot; &amp; 1!">"# }
        );
    }

    #[test]
    fn what_is_missing_or_unused_is_an_error() {
        let texts = r#"{"pages": {"a": "{name}", "b": {"other": "{count}"}}, "scripts": {}}"#;
        for template in
            [r#"{{ t("c") }}"#, r#"{{ t("a") }}"#, r#"{{ t("a", name=1, more=2) }}"#, r#"{{ t("b") }}"#]
        {
            assert!(rendered(texts, template).is_err(), "{template}");
        }
    }

    #[test]
    fn a_brace_that_is_not_closed_is_text() {
        use Part::{Argument, Text};
        assert_eq!(parts("a {b} c"), [Text("a "), Argument("b"), Text(" c")]);
        assert_eq!(parts("{b}{c"), [Text(""), Argument("b"), Text("{c")]);
    }
}
