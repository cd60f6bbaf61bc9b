//! Takes scripts and the expressions of templates apart into code and string literals: no more of a grammar than the
//! tests of this folder need.

/// A piece of source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// Code between literals, without comments.
    Code(String),
    /// A string, or the text of a template literal with `${}` for each value. The code of the values follows, in
    /// parentheses.
    Literal(String),
}

/// The tokens of a script.
pub fn script(source: &str) -> Vec<Token> {
    Lexer::new(source, true).run()
}

/// The tokens of a template's expression. Only strings are distinguished from code: `//` is a division there.
pub fn expression(source: &str) -> Vec<Token> {
    Lexer::new(source, false).run()
}

struct Lexer<'a> {
    source: &'a str,
    is_script: bool,
    code: String,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn new(source: &'a str, is_script: bool) -> Self {
        Self { source, is_script, code: String::new(), tokens: Vec::new() }
    }

    fn run(mut self) -> Vec<Token> {
        while let Some(next) = self.source.chars().next() {
            let rest = self.source;
            match next {
                '"' | '\'' => self.string(next),
                '`' if self.is_script => self.template(),
                '/' if self.is_script && rest.starts_with("//") => self.skip_to("\n"),
                '/' if self.is_script && rest.starts_with("/*") => self.skip_to("*/"),
                '/' if self.is_script && self.regex_may_begin() => self.regex(),
                _ => {
                    self.code.push(next);
                    self.advance(next.len_utf8());
                }
            }
        }
        self.end_code();
        self.tokens
    }

    fn advance(&mut self, bytes: usize) {
        self.source = &self.source[bytes..];
    }

    /// Past the next `end`; a line's end stays.
    fn skip_to(&mut self, end: &str) {
        let found = self.source.find(end).unwrap_or(self.source.len());
        self.advance((found + if end == "\n" { 0 } else { end.len() }).min(self.source.len()));
    }

    fn end_code(&mut self) {
        if !self.code.is_empty() {
            self.tokens.push(Token::Code(std::mem::take(&mut self.code)));
        }
    }

    fn string(&mut self, quote: char) {
        let length = until(&self.source[1..], &quote.to_string(), &[]);
        let text = self.source[1..=length].replace('\\', "");
        self.end_code();
        self.tokens.push(Token::Literal(text));
        self.advance(length + 2);
    }

    fn template(&mut self) {
        self.end_code();
        self.advance(1);
        let (mut text, mut values) = (String::new(), Vec::new());
        while !self.source.starts_with('`') && !self.source.is_empty() {
            if self.source.starts_with("${") {
                let length = until(&self.source[2..], "}", &[('{', '}')]);
                text.push_str("${}");
                values.push(Token::Code("(".into()));
                values.extend(script(&self.source[2..2 + length]));
                values.push(Token::Code(")".into()));
                self.advance(length + 3);
            } else {
                let next = self.source.chars().next().unwrap();
                text.push(next);
                self.advance(next.len_utf8());
            }
        }
        self.advance(1);
        self.tokens.push(Token::Literal(text));
        self.tokens.extend(values);
    }

    /// A slash divides after a value, and begins a regular expression elsewhere.
    fn regex_may_begin(&self) -> bool {
        let before = self.code.trim_end();
        before.ends_with(|c: char| "(,=:[!&|?{};".contains(c)) || before.ends_with("return")
    }

    fn regex(&mut self) {
        let length = until(&self.source[1..], "/", &[('[', ']')]);
        self.code.push('_');
        self.advance(length + 2);
    }
}

/// How many bytes come before `end`, which does not count after a backslash or between a pair of these.
fn until(text: &str, end: &str, pairs: &[(char, char)]) -> usize {
    let (mut is_escaped, mut depth) = (false, 0);
    for (index, next) in text.char_indices() {
        if is_escaped {
            is_escaped = false;
        } else if next == '\\' {
            is_escaped = true;
        } else if depth == 0 && text[index..].starts_with(end) {
            return index;
        } else if pairs.iter().any(|(open, _)| *open == next) && (end == "}" || depth == 0) {
            depth += 1;
        } else if depth > 0 && pairs.iter().any(|(_, close)| *close == next) {
            depth -= 1;
        }
    }
    panic!("there is no {end} in {:?}", text.chars().take(80).collect::<String>());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Token {
        Token::Code(text.into())
    }

    fn literal(text: &str) -> Token {
        Token::Literal(text.into())
    }

    #[test]
    fn literals_are_distinguished_from_code_comments_and_regular_expressions() {
        assert_eq!(
            script("a('it\\'s') // 'no'\n/* \"no\" */ b(/['\"]\\//g) / 2;"),
            [code("a("), literal("it's"), code(") \n b(_g) / 2;")]
        );
        assert_eq!(
            script("`a ${b({ c: 'd' })} e`"),
            [literal("a ${} e"), code("("), code("b({ c: "), literal("d"), code(" })"), code(")")]
        );
        assert_eq!(expression("t(\"a\", b=c // 2)"), [code("t("), literal("a"), code(", b=c // 2)")]);
    }
}
