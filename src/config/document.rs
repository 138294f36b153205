//! The document: what the file says, with the line and column of every key and value.
//!
//! In: nodes made by `yaml`. Out: a JSON value for the schema and for serde, and `Place`, a node together with the way to it, which is
//! what checks walk and mistakes are made at. A node that a mistake was already reported for is `Broken`: it becomes null in the
//! value, and whoever meets it stays silent. Not the typed `Config`, because that exists only when nothing is wrong, and then a
//! misspelt key would hide a missing upstream until the next run.

use std::fmt;

use serde_json::{Number, Value};

use super::report::{Mistake, quote};

/// A position in the file, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// One value and where it starts.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
    /// Reported already.
    Broken,
}

/// One key of a mapping and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) mark: Mark,
    pub(super) value: Node,
}

/// A scalar as it is written, and what it means.
#[derive(Debug)]
pub(super) struct Scalar {
    /// As it stands in the file, references to variables included.
    pub(super) written: String,
    pub(super) meaning: Meaning,
    /// A variable of the environment is part of what it means.
    pub(super) expanded: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Meaning {
    Boolean(bool),
    Number(Number),
    Text(String),
}

/// One step into the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// A node, the key it stands under, and the way to it.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    pub(super) node: &'a Node,
    key: Option<Mark>,
    steps: Vec<Step>,
}

impl Node {
    /// The node as JSON; what is broken is null.
    pub(super) fn value(&self) -> Value {
        match &self.content {
            Content::Broken => Value::Null,
            Content::Sequence(items) => items.iter().map(Self::value).collect(),
            Content::Mapping(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.value.value())).collect(),
            Content::Scalar(scalar) => match &scalar.meaning {
                Meaning::Boolean(truth) => Value::Bool(*truth),
                Meaning::Number(number) => Value::Number(number.clone()),
                Meaning::Text(text) => Value::String(text.clone()),
            },
        }
    }

    /// True when a variable of the environment is part of it.
    pub(super) fn is_expanded(&self) -> bool {
        match &self.content {
            Content::Broken => false,
            Content::Scalar(scalar) => scalar.expanded,
            Content::Sequence(items) => items.iter().any(Self::is_expanded),
            Content::Mapping(entries) => entries.iter().any(|entry| entry.value.is_expanded()),
        }
    }
}

impl<'a> Place<'a> {
    pub(super) const fn root(node: &'a Node) -> Self {
        Self { node, key: None, steps: Vec::new() }
    }

    fn step(&self, step: Step, key: Option<Mark>, node: &'a Node) -> Self {
        let mut steps = self.steps.clone();
        steps.push(step);
        Self { node, key, steps }
    }

    /// Each key of a mapping, with the place of its value; nothing for what is not a mapping.
    pub(super) fn entries(&self) -> Vec<(&'a str, Self)> {
        let Content::Mapping(entries) = &self.node.content else { return Vec::new() };
        entries.iter().map(|entry| (entry.key.as_str(), self.entry(entry))).collect()
    }

    fn entry(&self, entry: &'a Entry) -> Self {
        self.step(Step::Key(entry.key.clone()), Some(entry.mark), &entry.value)
    }

    /// The value of one key, when it is there.
    pub(super) fn child(&self, key: &str) -> Option<Self> {
        let Content::Mapping(entries) = &self.node.content else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| self.entry(entry))
    }

    /// The value at the end of several keys, when it is there.
    pub(super) fn descend(&self, keys: &[&str]) -> Option<Self> {
        keys.iter().try_fold(self.clone(), |place, key| place.child(key))
    }

    /// Each item of a list; nothing for what is not a list.
    pub(super) fn items(&self) -> Vec<Self> {
        let Content::Sequence(items) = &self.node.content else { return Vec::new() };
        items.iter().enumerate().map(|(index, item)| self.step(Step::Index(index), None, item)).collect()
    }

    /// The place a JSON pointer names, or the last one on the way to it that exists.
    pub(super) fn at_pointer(&self, pointer: &str) -> Self {
        let mut place = self.clone();
        for token in pointer.split('/').skip(1) {
            let token = token.replace("~1", "/").replace("~0", "~");
            let next = match &place.node.content {
                Content::Mapping(_) => place.child(&token),
                Content::Sequence(items) => token
                    .parse()
                    .ok()
                    .and_then(|index: usize| items.get(index).map(|item| place.step(Step::Index(index), None, item))),
                Content::Scalar(_) | Content::Broken => None,
            };
            match next {
                Some(next) => place = next,
                None => break,
            }
        }
        place
    }

    pub(super) fn is_broken(&self) -> bool {
        matches!(self.node.content, Content::Broken)
    }

    pub(super) fn scalar(&self) -> Option<&'a Scalar> {
        match &self.node.content {
            Content::Scalar(scalar) => Some(scalar),
            Content::Sequence(_) | Content::Mapping(_) | Content::Broken => None,
        }
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.scalar()?.meaning {
            Meaning::Text(text) => Some(text),
            Meaning::Boolean(_) | Meaning::Number(_) => None,
        }
    }

    pub(super) fn number(&self) -> Option<&'a Number> {
        match &self.scalar()?.meaning {
            Meaning::Number(number) => Some(number),
            Meaning::Boolean(_) | Meaning::Text(_) => None,
        }
    }

    /// The number of items or keys; none for a scalar.
    pub(super) fn length(&self) -> Option<usize> {
        match &self.node.content {
            Content::Sequence(items) => Some(items.len()),
            Content::Mapping(entries) => Some(entries.len()),
            Content::Scalar(_) | Content::Broken => None,
        }
    }

    /// The scalar as a report may show it: as written, never what a variable held.
    pub(super) fn quoted(&self) -> String {
        self.scalar().map(|scalar| quote(&scalar.written)).unwrap_or_default()
    }

    /// Where a reader looks for it: the value, or its key when the value starts on a later line.
    fn mark(&self) -> Mark {
        match self.key {
            Some(key) if key.line != self.node.mark.line => key,
            Some(_) | None => self.node.mark,
        }
    }

    /// A mistake about the value.
    pub(super) fn mistake(&self, message: impl Into<String>, hint: Option<String>) -> Mistake {
        self.mistake_at(self.mark(), &self.steps, message.into(), hint)
    }

    /// A mistake about the key this value stands under.
    pub(super) fn mistake_of_key(&self, message: impl Into<String>, hint: Option<String>) -> Mistake {
        self.mistake_at(self.key.unwrap_or(self.node.mark), &self.steps, message.into(), hint)
    }

    /// A mistake about a key that is not there, told where the mapping it belongs in begins.
    pub(super) fn mistake_of_missing(&self, key: &str, message: impl Into<String>, hint: Option<String>) -> Mistake {
        let mut steps = self.steps.clone();
        steps.push(Step::Key(key.to_owned()));
        self.mistake_at(self.key.unwrap_or(self.node.mark), &steps, message.into(), hint)
    }

    fn mistake_at(&self, mark: Mark, steps: &[Step], message: String, hint: Option<String>) -> Mistake {
        Mistake { line: mark.line, column: mark.column, path: Path(steps).to_string(), message, hint }
    }
}

/// Steps as people write them: `listeners[0].routes[1].upstream`, `bundles["example.org"]`.
pub(super) struct Path<'a>(pub(super) &'a [Step]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if key.is_empty() || !key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') => {
                    write!(f, "[{key:?}]")?;
                }
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_people_write_them() {
        let key = |text: &str| Step::Key(text.to_owned());
        let path = [key("identity"), key("bundles"), key("example.org"), Step::Index(2), key("name")];
        assert_eq!(Path(&path).to_string(), "identity.bundles[\"example.org\"][2].name");
        assert_eq!(Path(&[key("listeners"), Step::Index(0), key("routes")]).to_string(), "listeners[0].routes");
        assert_eq!(Path(&[]).to_string(), "");
    }
}
