//! Writes YAML in every way that people write it in: block or flow, comments and gaps, quotes or none.

/// A value, which is nothing of ours.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// Nothing, in a word or by silence.
    Nothing(&'static str),
    Text(&'static str),
    /// Some lines of text.
    Lines,
    List(Vec<Node>),
    Map(Vec<(&'static str, Node)>),
}

/// Writes as the noise says, again and again the same; without noise it is plain.
pub(super) struct Writer {
    out: String,
    noise: Vec<u8>,
    at: usize,
    /// Whether it is all JSON.
    json: bool,
}

impl Writer {
    pub(super) fn new(noise: Vec<u8>, json: bool) -> Self {
        Self {
            out: String::new(),
            noise,
            at: 0,
            json,
        }
    }

    pub(super) fn text(self) -> String {
        self.out
    }

    /// One of so many, the first if there is no noise.
    fn choose(&mut self, count: u8) -> u8 {
        let byte = self.noise.get(self.at % self.noise.len()).copied().unwrap_or_default();
        self.at += 1;
        byte % count
    }

    fn rarely(&mut self, count: u8) -> bool {
        self.choose(count) == count - 1
    }

    fn spaces(&mut self, count: usize) {
        self.out.push_str(&" ".repeat(count));
    }

    pub(super) fn document(&mut self, number: usize, node: &Node) {
        if number > 0 || self.rarely(4) {
            self.out.push_str("---\n");
        }
        if !self.json {
            self.gap(0);
        }
        match node {
            Node::Map(entries) if !self.json && !self.rarely(8) => self.block_map(entries, 0, false),
            _ => {
                self.flow(node, 0);
                self.out.push('\n');
            }
        }
    }

    /// What may stand between lines.
    fn gap(&mut self, indent: usize) {
        if self.rarely(8) {
            self.out.push('\n');
        }
        if self.rarely(6) {
            self.spaces(indent);
            self.out.push_str("# what: follows - [\n");
        }
        if self.rarely(12) {
            self.out.push_str("# at the start\n");
        }
    }

    fn end_of_line(&mut self) {
        match self.choose(8) {
            6 => self.out.push_str("  "),
            7 => self.out.push_str(" # a: remark"),
            _ => {}
        }
        self.out.push('\n');
    }

    fn block_map(&mut self, entries: &[(&str, Node)], indent: usize, begun: bool) {
        for (at, (key, value)) in entries.iter().enumerate() {
            if at > 0 || !begun {
                self.gap(indent);
                self.spaces(indent);
            }
            self.key(key);
            self.block_value(value, indent);
        }
    }

    fn block_value(&mut self, value: &Node, indent: usize) {
        let step = match self.choose(4) {
            2 => 4,
            3 => 1,
            _ => 2,
        };
        match value {
            Node::Nothing("") => self.end_of_line(),
            Node::Lines => {
                self.out.push_str(" |\n");
                for line in ["two", "  # lines"] {
                    self.spaces(indent + step);
                    self.out.push_str(line);
                    self.out.push('\n');
                }
            }
            Node::Map(entries) if !entries.is_empty() && !self.rarely(5) => {
                self.end_of_line();
                self.block_map(entries, indent + step, false);
            }
            Node::List(items) if !items.is_empty() && !self.rarely(5) => {
                self.end_of_line();
                let deeper = if self.rarely(3) { step } else { 0 };
                self.block_list(items, indent + deeper);
            }
            other => {
                let before = 1 + usize::from(self.choose(3));
                self.spaces(before);
                self.flow(other, indent + 1);
                self.end_of_line();
            }
        }
    }

    fn block_list(&mut self, items: &[Node], indent: usize) {
        for item in items {
            self.gap(indent);
            self.spaces(indent);
            self.out.push('-');
            match item {
                Node::Map(entries) if !entries.is_empty() && !self.rarely(5) => {
                    if self.rarely(5) {
                        self.end_of_line();
                        self.block_map(entries, indent + 2, false);
                    } else {
                        let before = 1 + usize::from(self.choose(3));
                        self.spaces(before);
                        self.block_map(entries, indent + 1 + before, true);
                    }
                }
                other => {
                    self.out.push(' ');
                    self.flow(other, indent + 1);
                    self.end_of_line();
                }
            }
        }
    }

    fn key(&mut self, key: &str) {
        let quoted = self.json || self.rarely(6);
        self.out
            .push_str(&if quoted { format!("{key:?}") } else { key.to_owned() });
        if self.rarely(12) {
            self.out.push(' ');
        }
        self.out.push(':');
    }

    fn flow(&mut self, node: &Node, indent: usize) {
        match node {
            Node::Nothing(_) if self.json => self.out.push_str("null"),
            Node::Nothing(word) => self.out.push_str(word),
            Node::Lines => self.out.push_str("\"two\\n  # lines\\n\""),
            Node::Text(text) => {
                let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric()) && *text != "null";
                match self.choose(3) {
                    0 if plain && !self.json => self.out.push_str(text),
                    1 if !self.json => self.out.push_str(&format!("'{text}'")),
                    _ => self.out.push_str(&format!("{text:?}")),
                }
            }
            Node::Map(entries) => {
                self.out.push('{');
                self.separate(indent);
                for (at, (key, value)) in entries.iter().enumerate() {
                    self.comma(at, indent);
                    self.key(key);
                    let apart = !self.json || self.rarely(2);
                    self.spaces(apart.into());
                    self.flow(value, indent);
                }
                self.end(!entries.is_empty(), indent, '}');
            }
            Node::List(items) => {
                self.out.push('[');
                self.separate(indent);
                for (at, item) in items.iter().enumerate() {
                    self.comma(at, indent);
                    self.flow(item, indent);
                }
                self.end(!items.is_empty(), indent, ']');
            }
        }
    }

    fn comma(&mut self, at: usize, indent: usize) {
        if at > 0 {
            self.out.push(',');
            self.separate(indent);
            self.out.push(' ');
        }
    }

    fn end(&mut self, full: bool, indent: usize, bracket: char) {
        if full && !self.json && self.rarely(8) {
            self.out.push(',');
        }
        self.separate(indent);
        self.out.push(bracket);
    }

    /// What may stand between the parts of something in brackets.
    fn separate(&mut self, indent: usize) {
        match self.choose(10) {
            6 => self.out.push(' '),
            7 | 8 => {
                self.out.push('\n');
                self.spaces(indent + 3);
            }
            9 if !self.json => {
                self.out.push_str(" # here: {\n");
                self.spaces(indent + 1);
            }
            _ => {}
        }
    }
}
