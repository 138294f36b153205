//! YAML events → the document.
//!
//! In: the file's text. Out: a tree in which everything has its position, and what is wrong already at this level: syntax, repeated
//! keys, keys without a value, anchors, aliases, merge keys, tags and further documents. Those are refused because each lets one line
//! of the file mean something that stands elsewhere in it. Not `serde_yaml`, which knows no positions once a value is made, and
//! lets the last of two equal keys win. Built with a stack of our own: nesting is bounded by a number, not by the thread's stack.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use super::document::{Content, Entry, Mark, Node, Path, Step};
use super::report::{Mistake, quote};
use super::scalar::{self, ScalarError};

/// How deep lists and mappings may nest.
const DEPTH: usize = 64;

/// What the file says, as far as it can be read, and what is wrong with its YAML.
pub(super) fn read(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> (Option<Node>, Vec<Mistake>) {
    let mut builder = Builder { environment, open: Vec::new(), root: None, documents: 0, mistakes: Vec::new() };
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        let going_on = match next {
            Ok((event, span)) => builder.event(event, mark(span.start)),
            Err(error) => builder.syntax(&error),
        };
        if !going_on {
            return (None, builder.mistakes);
        }
    }
    if builder.root.is_none() && builder.mistakes.is_empty() {
        builder.mistakes.push(Mistake::whole("the file is empty"));
    }
    (builder.root, builder.mistakes)
}

fn mark(marker: Marker) -> Mark {
    Mark { line: marker.line().max(1), column: marker.col() + 1 }
}

struct Builder<'e> {
    environment: &'e dyn Fn(&str) -> Option<String>,
    /// The lists and mappings that have begun and not ended.
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    mistakes: Vec<Mistake>,
}

enum Open {
    Sequence { mark: Mark, items: Vec<Node> },
    Mapping { mark: Mark, entries: Vec<Entry>, key: Key },
}

/// Where a mapping stands.
enum Key {
    Awaited,
    /// The next node is its value.
    Read(String, Mark),
    /// A mistake was reported for the key; its value is read and let go.
    Refused,
}

impl Builder<'_> {
    /// Takes one event; false when nothing after it can be understood.
    fn event(&mut self, event: Event<'_>, mark: Mark) -> bool {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.report(mark, "a second document begins here; one file is one configuration", None);
                    return false;
                }
            }
            Event::Alias(_) => {
                self.report(mark, "aliases are not supported", Some("write the value out where it is needed"));
                self.attach(Node { mark, content: Content::Broken });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.decorations(mark, anchor, tag.is_some());
                if matches!(self.open.last(), Some(Open::Mapping { key: Key::Awaited, .. })) {
                    self.key(&text, style == ScalarStyle::Plain, mark);
                } else {
                    self.scalar(&text, style == ScalarStyle::Plain, mark);
                }
            }
            Event::SequenceStart(anchor, tag) => {
                self.decorations(mark, anchor, tag.is_some());
                return self.begin(Open::Sequence { mark, items: Vec::new() }, mark);
            }
            Event::MappingStart(anchor, tag) => {
                self.decorations(mark, anchor, tag.is_some());
                return self.begin(Open::Mapping { mark, entries: Vec::new(), key: Key::Awaited }, mark);
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::Sequence { mark, items }) => self.attach(Node { mark, content: Content::Sequence(items) }),
                Some(Open::Mapping { mark, entries, .. }) => self.attach(Node { mark, content: Content::Mapping(entries) }),
                None => {}
            },
        }
        true
    }

    fn begin(&mut self, container: Open, mark: Mark) -> bool {
        if self.open.len() >= DEPTH {
            self.report(mark, &format!("more than {DEPTH} lists and mappings stand in each other"), None);
            return false;
        }
        self.open.push(container);
        true
    }

    fn decorations(&mut self, mark: Mark, anchor: usize, tagged: bool) {
        if anchor != 0 {
            self.report(mark, "anchors are not supported", Some("write the value out where it is needed"));
        }
        if tagged {
            self.report(mark, "tags are not supported", Some("leave the tag out; quote what shall be text"));
        }
    }

    fn scalar(&mut self, text: &str, plain: bool, mark: Mark) {
        let content = match scalar::read(text, plain, self.environment) {
            Ok(scalar) => Content::Scalar(scalar),
            Err(error) => {
                let place = match self.open.last() {
                    Some(Open::Mapping { key: Key::Read(_, key), .. }) if error == ScalarError::Null => *key,
                    _ => mark,
                };
                self.report(place, &error.to_string(), None);
                Content::Broken
            }
        };
        self.attach(Node { mark, content });
    }

    fn key(&mut self, text: &str, plain: bool, mark: Mark) {
        let wrong = if plain && text == "<<" {
            Some(("merge keys are not supported".to_owned(), Some("write the keys out")))
        } else if plain && text.is_empty() {
            Some(("a key is missing before this colon".to_owned(), None))
        } else if text.contains("${") {
            Some((format!("{} is a key; only values may refer to the environment", quote(text)), None))
        } else if let Some(Open::Mapping { entries, .. }) = self.open.last() {
            let first = entries.iter().find(|entry| entry.key == text);
            first.map(|first| {
                (format!("the key {} stands here twice, first on line {}", quote(text), first.mark.line), Some("keep one of them"))
            })
        } else {
            None
        };
        let refused = wrong.is_some();
        if let Some((message, hint)) = wrong {
            self.report(mark, &message, hint);
        }
        if let Some(Open::Mapping { key, .. }) = self.open.last_mut() {
            *key = if refused { Key::Refused } else { Key::Read(text.to_owned(), mark) };
        }
    }

    /// Puts a finished node where it belongs.
    fn attach(&mut self, node: Node) {
        let mut complex = None;
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::Sequence { items, .. }) => items.push(node),
            Some(Open::Mapping { entries, key, .. }) => match std::mem::replace(key, Key::Awaited) {
                Key::Read(name, mark) => entries.push(Entry { key: name, mark, value: node }),
                Key::Refused => {}
                Key::Awaited => {
                    *key = Key::Refused;
                    complex = Some(node.mark);
                }
            },
        }
        if let Some(mark) = complex {
            self.report(mark, "a key must be text", None);
        }
    }

    /// A syntax error has no path: which list or mapping it was meant to stand in is what is not known.
    fn syntax(&mut self, error: &ScanError) -> bool {
        let hint = error.info().contains("tab").then_some("indent with spaces");
        self.open.clear();
        self.report(mark(*error.marker()), &format!("this is not YAML: {}", error.info()), hint);
        false
    }

    fn report(&mut self, mark: Mark, message: &str, hint: Option<&str>) {
        let steps: Vec<Step> = self
            .open
            .iter()
            .filter_map(|open| match open {
                Open::Sequence { items, .. } => Some(Step::Index(items.len())),
                Open::Mapping { key: Key::Read(name, _), .. } => Some(Step::Key(name.clone())),
                Open::Mapping { key: Key::Awaited | Key::Refused, .. } => None,
            })
            .collect();
        self.mistakes.push(Mistake {
            line: mark.line,
            column: mark.column,
            path: Path(&steps).to_string(),
            message: message.to_owned(),
            hint: hint.map(str::to_owned),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<(usize, usize, String, String)> {
        read(text, &|_| None).1.into_iter().map(|m| (m.line, m.column, m.path, m.message)).collect()
    }

    #[test]
    fn a_document_keeps_what_it_says() {
        let (node, mistakes) = read("a: [1, x, 'y']\nb:\n  - {c: true}\n", &|_| None);
        assert_eq!(mistakes, []);
        assert_eq!(node.unwrap().value(), serde_json::json!({"a": [1, "x", "y"], "b": [{"c": true}]}));
    }

    #[test]
    fn what_hides_meaning_is_refused_where_it_stands() {
        for (text, line, column, path, message) in [
            ("a: 1\nb: 2\na: 3", 3, 1, "", "the key `a` stands here twice, first on line 1"),
            ("a: &x 1\n", 1, 4, "a", "anchors are not supported"),
            ("a: &x 1\nb: [*x]", 2, 5, "b[0]", "aliases are not supported"),
            ("a: !!str 1", 1, 4, "a", "tags are not supported"),
            ("a:\n  <<: {b: 1}", 2, 3, "a", "merge keys are not supported"),
            ("a: 1\n---\nb: 2", 2, 1, "", "a second document begins here"),
            ("a:\n  b:\nc: 1", 2, 3, "a.b", "it has no value"),
            ("a: [~]", 1, 5, "a[0]", "it has no value"),
            ("[a]: 1", 1, 1, "", "a key must be text"),
            ("${A}: 1", 1, 1, "", "`${A}` is a key"),
            ("a: ${A}", 1, 4, "a", "the environment has no variable `A`"),
            ("", 1, 1, "", "the file is empty"),
            ("# nothing\n", 1, 1, "", "the file is empty"),
            ("a: [1, 2\nb: 3\n", 2, 2, "", "this is not YAML"),
        ] {
            let found = mistakes(text);
            assert!(
                found.iter().any(|m| (m.0, m.1) == (line, column) && m.2 == path && m.3.starts_with(message)),
                "{text:?}: {found:?}"
            );
        }
        assert!(mistakes(&"- ".repeat(10_000)).iter().any(|m| m.3.starts_with("more than 64")));
        assert_eq!(mistakes(&"[".repeat(10_000)).len(), 1);
    }
}
