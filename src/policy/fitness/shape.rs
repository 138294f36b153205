//! What a term can be: values the data holds, a path of the input, a collection, a number, or anything.
//!
//! In: a term and where its names come from. Out: a [`Shape`], wider than the truth or equal to it, and the [`Check`]s an input
//! must pass for a term of it to be used as it is. The interpreter fails where something that is no collection is iterated and
//! turns numbers into text where they index data; the VM does neither, so both must be known not to happen.

use regorus::Value;
use regorus::unstable::Expr;

use super::super::walk::{self, Step};
use super::terms::constant;
use super::{Reader, Unfit};

/// Data with more candidates than this is not followed.
const CANDIDATES: usize = 1 << 20;
/// Names that stand for names that stand for names.
const CHAIN: usize = 16;

/// What the value at a path of the input must be, where there is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::policy) enum Check {
    Collection(Vec<Value>),
    Number(Vec<Value>),
    NotNumber(Vec<Value>),
}

impl Check {
    /// True when the input has no value at the path, or one that may be used as the policy uses it.
    pub(in crate::policy) fn passes(&self, input: &Value) -> bool {
        let (Self::Collection(path) | Self::Number(path) | Self::NotNumber(path)) = self;
        let mut at = input;
        for key in path {
            match at {
                Value::Object(object) => match object.get(key) {
                    Some(value) => at = value,
                    None => return true,
                },
                _ => return true,
            }
        }
        match self {
            Self::Collection(_) => is_collection(at),
            Self::Number(_) => matches!(at, Value::Number(_)),
            Self::NotNumber(_) => !matches!(at, Value::Number(_)),
        }
    }
}

/// Where a local name gets its value.
#[derive(Clone, Copy)]
pub(super) enum Binding<'a> {
    Argument,
    Value(&'a Expr),
    Element(&'a Expr),
    Key(&'a Expr),
}

enum Shape {
    Anything,
    Collection,
    Number,
    /// One of these, or undefined.
    Known(Vec<Value>),
    /// What stands at this path of the input.
    Input(Vec<Value>),
}

impl<'a> Reader<'a, '_> {
    /// Makes sure that a term is a collection or undefined.
    pub(super) fn iterable(&mut self, term: &'a Expr) -> Result<(), Unfit> {
        match self.shape(term, CHAIN) {
            Shape::Collection => Ok(()),
            Shape::Known(values) if values.iter().all(is_collection) => Ok(()),
            Shape::Input(path) => self.require(Check::Collection(path)),
            Shape::Known(_) | Shape::Number | Shape::Anything => {
                self.refuse(term.span(), "this is not known to be a collection; the interpreter fails where it is none")
            }
        }
    }

    /// Makes sure that a term which indexes data is no number.
    pub(super) fn no_number(&mut self, term: &'a Expr) -> Result<(), Unfit> {
        match self.shape(term, CHAIN) {
            Shape::Collection => Ok(()),
            Shape::Known(values) if !values.iter().any(|value| matches!(value, Value::Number(_))) => Ok(()),
            Shape::Input(path) => self.require(Check::NotNumber(path)),
            Shape::Known(_) | Shape::Number | Shape::Anything => {
                self.refuse(term.span(), "it indexes data and may be a number; the interpreter would take it for text")
            }
        }
    }

    /// Makes sure that a term is a number or undefined.
    pub(super) fn number(&mut self, term: &'a Expr) -> Result<(), Unfit> {
        match self.shape(term, CHAIN) {
            Shape::Number => Ok(()),
            Shape::Known(values) if values.iter().all(|value| matches!(value, Value::Number(_))) => Ok(()),
            Shape::Input(path) => self.require(Check::Number(path)),
            Shape::Known(_) | Shape::Collection | Shape::Anything => {
                self.refuse(term.span(), "this is not known to be a number, and arithmetic on anything else fails")
            }
        }
    }

    fn require(&mut self, check: Check) -> Result<(), Unfit> {
        self.fit.checks.push(check);
        Ok(())
    }

    /// Where a local name gets its value; `None` for other names.
    pub(super) fn binding(&self, name: &str) -> Option<Binding<'a>> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name)).copied()
    }

    /// True for a path written out from `data` that the bundle has a value at.
    pub(super) fn stands_in_data(&self, term: &'a Expr) -> bool {
        let Some(("data", steps)) = walk::reference(term) else { return false };
        walk::literal_prefix(&steps).len() == steps.len()
            && matches!(self.global("data", &steps), Shape::Known(values) if !values.is_empty())
    }

    fn shape(&self, term: &'a Expr, left: usize) -> Shape {
        if left == 0 {
            return Shape::Anything;
        }
        if let Some(value) = constant(term) {
            return Shape::Known(vec![value]);
        }
        match term {
            Expr::Array { .. } | Expr::Set { .. } | Expr::Object { .. } | Expr::ArrayCompr { .. } | Expr::SetCompr { .. } => {
                Shape::Collection
            }
            Expr::ArithExpr { .. } => Shape::Number,
            Expr::Call { fcn, .. } => self.returned(fcn),
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.referred(term, left),
            _ => Shape::Anything,
        }
    }

    fn returned(&self, function: &Expr) -> Shape {
        let Some((root, steps)) = walk::reference(function) else { return Shape::Anything };
        let steps = walk::literal_prefix(&steps);
        if self.program.functions(self.names, root, &steps).next().is_some() {
            return Shape::Anything;
        }
        match (root, steps.first().map(String::as_str)) {
            ("count", None) => Shape::Number,
            ("split" | "sort", None) | ("object", Some("keys")) | ("array", Some("concat" | "slice" | "reverse")) => {
                Shape::Collection
            }
            _ => Shape::Anything,
        }
    }

    fn referred(&self, term: &'a Expr, left: usize) -> Shape {
        let Some((root, steps)) = walk::reference(term) else { return Shape::Anything };
        let start = match self.binding(root) {
            Some(Binding::Argument) => Shape::Anything,
            Some(Binding::Value(term)) => self.shape(term, left - 1),
            Some(Binding::Element(term)) => children(self.shape(term, left - 1)),
            Some(Binding::Key(term)) => keys(self.shape(term, left - 1)),
            None => return self.global(root, &steps),
        };
        steps.iter().fold(start, stepped)
    }

    fn global(&self, root: &str, steps: &[Step<'a>]) -> Shape {
        let literal = walk::literal_prefix(steps);
        let mut target = match root {
            "input" | "data" => vec![root.to_owned()],
            _ => match self.names.imports.get(root) {
                Some(target) => target.clone(),
                None => return self.rule_shape(root, steps),
            },
        };
        let base = target.remove(0);
        if base == "data" {
            let whole: Vec<String> = target.iter().chain(&literal).cloned().collect();
            if !self.program.is_plain_data(&whole) {
                return Shape::Anything;
            }
            let start =
                target.into_iter().fold(Shape::Known(vec![self.data.clone()]), |at, part| stepped(at, &Step::Literal(part)));
            return steps.iter().fold(start, stepped);
        }
        let start = Shape::Input(target.into_iter().map(Value::from).collect());
        steps.iter().fold(start, stepped)
    }

    /// A set is a set; what other rules are is not followed.
    fn rule_shape(&self, name: &str, steps: &[Step<'_>]) -> Shape {
        let path: Vec<String> = self.names.package.iter().cloned().chain([name.to_owned()]).collect();
        let node = self.program.index_of(&path).and_then(|index| self.program.nodes.get(index));
        match node {
            Some(node) if node.set && steps.is_empty() => Shape::Collection,
            Some(_) | None => Shape::Anything,
        }
    }
}

fn stepped(at: Shape, step: &Step<'_>) -> Shape {
    match (at, step) {
        (Shape::Known(values), Step::Literal(key)) => {
            let key = Value::from(key.as_str());
            Shape::Known(values.iter().map(|value| value[&key].clone()).filter(|value| *value != Value::Undefined).collect())
        }
        (Shape::Input(mut path), Step::Literal(key)) => {
            path.push(Value::from(key.as_str()));
            Shape::Input(path)
        }
        (known @ Shape::Known(_), Step::Dynamic(_)) => children(known),
        (Shape::Anything | Shape::Collection | Shape::Number | Shape::Input(_), _) => Shape::Anything,
    }
}

fn children(of: Shape) -> Shape {
    let Shape::Known(values) = of else { return Shape::Anything };
    let mut found = Vec::new();
    for value in &values {
        match value {
            Value::Array(items) => found.extend(items.iter().cloned()),
            Value::Set(items) => found.extend(items.iter_sorted().cloned()),
            Value::Object(object) => found.extend(object.iter_sorted().map(|(_, value)| value.clone())),
            _ => {}
        }
        if found.len() > CANDIDATES {
            return Shape::Anything;
        }
    }
    Shape::Known(found)
}

fn keys(of: Shape) -> Shape {
    let Shape::Known(values) = of else { return Shape::Anything };
    let mut found = Vec::new();
    for value in &values {
        match value {
            Value::Array(_) => found.push(Value::from(0u64)),
            Value::Set(items) => found.extend(items.iter_sorted().cloned()),
            Value::Object(object) => found.extend(object.iter_sorted().map(|(key, _)| key.clone())),
            _ => {}
        }
        if found.len() > CANDIDATES {
            return Shape::Anything;
        }
    }
    Shape::Known(found)
}

fn is_collection(value: &Value) -> bool {
    matches!(value, Value::Array(_) | Value::Set(_) | Value::Object(_))
}
