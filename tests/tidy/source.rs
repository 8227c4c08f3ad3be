//! What a Rust file says of its place in the house: the paths it names, the modules it opens, the macros it calls and
//! the lints it silences. A tokenizer, not a parser: enough for imports, and blind to what stands in comments and texts.

/// One path that the file names, `use` trees taken apart.
pub(crate) struct Use {
    /// Counted from 1.
    pub(crate) line: usize,
    /// `["crate", "model", "Id"]`; a glob ends with `*`.
    pub(crate) path: Vec<String>,
    /// The inline modules in which it stands, outermost first.
    pub(crate) inside: Vec<String>,
}

/// One `mod name;`.
pub(crate) struct Module {
    /// Its name.
    pub(crate) name: String,
    /// The file that a `#[path]` names.
    pub(crate) at: Option<String>,
    /// The inline modules in which it stands, outermost first.
    pub(crate) inside: Vec<String>,
}

/// One file, read.
#[derive(Default)]
pub(crate) struct Source {
    /// Every path of more than one segment, and every leaf of a `use`.
    pub(crate) uses: Vec<Use>,
    /// Every module that it opens in another file.
    pub(crate) modules: Vec<Module>,
    /// Line and name of every macro that it calls.
    pub(crate) macros: Vec<(usize, String)>,
    /// Lines where a lint is allowed or expected without a reason.
    pub(crate) silent_allows: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Word,
    Text,
    Mark,
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    text: String,
    line: usize,
}

impl Source {
    /// Reads a file's text.
    pub(crate) fn read(text: &str) -> Self {
        let tokens = tokens(text);
        let mut reader = Reader {
            tokens: &tokens,
            at: 0,
            depth: 0,
            inside: Vec::new(),
            path_attribute: None,
        };
        let mut source = Self::default();
        while reader.at < tokens.len() {
            reader.step(&mut source);
        }
        source
    }
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    /// The open inline modules, each with the depth at which it closes.
    inside: Vec<(String, usize)>,
    path_attribute: Option<String>,
}

impl Reader<'_> {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }

    fn is_word(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == Kind::Word)
    }

    fn modules_around(&self) -> Vec<String> {
        self.inside.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Reads one thing, whatever stands next.
    fn step(&mut self, source: &mut Source) {
        let token = &self.tokens[self.at];
        match token.text.as_str() {
            "{" if token.kind == Kind::Mark => self.depth += 1,
            "}" if token.kind == Kind::Mark => {
                self.depth = self.depth.saturating_sub(1);
                self.inside.retain(|(_, depth)| *depth <= self.depth);
            }
            "#" if token.kind == Kind::Mark => return self.attribute(source),
            "mod" if self.is_word(self.at + 1) => return self.module(source),
            "use" if token.kind == Kind::Word => {
                self.at += 1;
                if self.text(self.at) == "::" {
                    self.at += 1;
                }
                return self.tree(Vec::new(), true, source);
            }
            name if token.kind == Kind::Word => {
                if self.text(self.at + 1) == "!" && self.text(self.at + 2) != "=" {
                    source.macros.push((token.line, name.to_owned()));
                }
                let begins = self.at == 0 || ![".", "::"].contains(&self.text(self.at - 1));
                if begins && self.text(self.at + 1) == "::" {
                    return self.tree(Vec::new(), false, source);
                }
            }
            _ => {}
        }
        self.at += 1;
    }

    /// `mod name;` or `mod name {`.
    fn module(&mut self, source: &mut Source) {
        let name = self.text(self.at + 1).to_owned();
        match self.text(self.at + 2) {
            ";" => {
                let inside = self.modules_around();
                source.modules.push(Module {
                    name,
                    at: self.path_attribute.take(),
                    inside,
                });
            }
            "{" => {
                self.depth += 1;
                self.inside.push((name, self.depth));
            }
            _ => {}
        }
        self.at += 3;
    }

    /// A path, or a tree of them: `a::b`, and in a `use` also `a::{b, c::*}` and `a as b`.
    fn tree(&mut self, mut path: Vec<String>, is_use: bool, source: &mut Source) {
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        loop {
            let word = self.text(self.at).to_owned();
            if is_use && word == "{" {
                self.at += 1;
                while self.at < self.tokens.len() && self.text(self.at) != "}" {
                    let begin = self.at;
                    if self.text(self.at) != "," {
                        self.tree(path.clone(), true, source);
                    }
                    // Whatever stands here, also what is no Rust, is passed.
                    self.at += usize::from(self.at == begin);
                }
                self.at += 1;
                return;
            }
            if !(self.is_word(self.at) || is_use && word == "*") {
                break;
            }
            path.push(word);
            self.at += 1;
            if self.text(self.at) != "::" {
                break;
            }
            self.at += 1;
        }
        if is_use && self.text(self.at) == "as" {
            self.at += 2;
        }
        // `a::{self}` names `a`.
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        if path.is_empty() {
            self.at += 1;
        } else {
            source.uses.push(Use {
                line,
                path,
                inside: self.modules_around(),
            });
        }
    }

    /// `#[…]` or `#![…]`.
    fn attribute(&mut self, source: &mut Source) {
        let line = self.tokens[self.at].line;
        self.at += 1;
        if self.text(self.at) == "!" {
            self.at += 1;
        }
        if self.text(self.at) != "[" {
            return;
        }
        let begin = self.at;
        let mut open = 0_usize;
        while self.at < self.tokens.len() {
            match self.text(self.at) {
                "[" => open += 1,
                "]" => open -= 1,
                _ => {}
            }
            self.at += 1;
            if open == 0 {
                break;
            }
        }
        let inner = &self.tokens[begin..self.at];
        let words = |wanted: &str| {
            inner
                .iter()
                .any(|token| token.kind == Kind::Word && token.text == wanted)
        };
        let silences = inner
            .windows(2)
            .any(|pair| ["allow", "expect"].contains(&pair[0].text.as_str()) && pair[1].text == "(");
        if silences && !words("reason") {
            source.silent_allows.push(line);
        }
        if inner.get(1).is_some_and(|token| token.text == "path") {
            self.path_attribute = inner
                .iter()
                .find(|token| token.kind == Kind::Text)
                .map(|token| token.text.clone());
        }
    }
}

/// Takes the text apart. Comments vanish; a literal text is one token that no word can be mistaken for.
fn tokens(text: &str) -> Vec<Token> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < characters.len() {
        let begin = at;
        let character = characters[at];
        let next = characters.get(at + 1).copied().unwrap_or(' ');
        let mut token = None;
        if character == '/' && next == '/' {
            at = position_of(&characters, at, |c| c == '\n');
        } else if character == '/' && next == '*' {
            at = after_block_comment(&characters, at);
        } else if let Some(end) = after_literal(&characters, at) {
            at = end;
            let literal: String = characters[begin..end].iter().collect();
            token = Some((Kind::Text, literal.trim_matches('"').to_owned()));
        } else if character.is_alphanumeric() || character == '_' {
            at = position_of(&characters, at, |c| !(c.is_alphanumeric() || c == '_'));
            token = Some((Kind::Word, characters[begin..at].iter().collect()));
        } else if character == ':' && next == ':' {
            at += 2;
            token = Some((Kind::Mark, "::".to_owned()));
        } else {
            at += 1;
            if !character.is_whitespace() {
                token = Some((Kind::Mark, character.to_string()));
            }
        }
        if let Some((kind, text)) = token {
            tokens.push(Token { kind, text, line });
        }
        line += characters[begin..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

/// The first place from `at` where this holds, or the end.
fn position_of(characters: &[char], at: usize, holds: impl Fn(char) -> bool) -> usize {
    characters[at..]
        .iter()
        .position(|c| holds(*c))
        .map_or(characters.len(), |ahead| at + ahead)
}

/// Block comments nest.
fn after_block_comment(characters: &[char], mut at: usize) -> usize {
    let mut open = 0_usize;
    while at < characters.len() {
        match (characters[at], characters.get(at + 1)) {
            ('/', Some('*')) => {
                open += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                open -= 1;
                at += 2;
            }
            _ => at += 1,
        }
        if open == 0 {
            break;
        }
    }
    at
}

/// Where the literal that begins here ends: `"…"`, `r#"…"#`, either with `b` or `c` before it, `'x'`. A lifetime is none.
fn after_literal(characters: &[char], at: usize) -> Option<usize> {
    let at_or = |at: usize| characters.get(at).copied().unwrap_or(' ');
    let after_word = at > 0 && (at_or(at - 1).is_alphanumeric() || at_or(at - 1) == '_');
    let mut quote = at;
    if ['b', 'c'].contains(&at_or(quote)) && !after_word {
        quote += 1;
    }
    if at_or(quote) == 'r' && !after_word {
        let hashes = characters[quote + 1..].iter().take_while(|c| **c == '#').count();
        if at_or(quote + 1 + hashes) == '"' {
            let mut end = quote + 2 + hashes;
            while end < characters.len() {
                if at_or(end) == '"' && (1..=hashes).all(|ahead| at_or(end + ahead) == '#') {
                    return Some(end + 1 + hashes);
                }
                end += 1;
            }
            return Some(end);
        }
    }
    match at_or(quote) {
        '"' => Some(after_quoted(characters, quote, '"')),
        '\'' if at_or(quote + 1) == '\\' || at_or(quote + 2) == '\'' => Some(after_quoted(characters, quote, '\'')),
        _ => None,
    }
}

/// The place behind the closing quote; a backslash takes the next character along.
fn after_quoted(characters: &[char], quote: usize, closing: char) -> usize {
    let mut at = quote + 1;
    while at < characters.len() {
        match characters[at] {
            '\\' => at += 2,
            c if c == closing => return at + 1,
            _ => at += 1,
        }
    }
    characters.len()
}
