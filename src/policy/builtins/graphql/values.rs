//! Values held against the types they are given for (GraphQL specification, October 2021, sections 5.6 and 5.8).
//!
//! In: a value and its type. Out: nothing, or that a rule is broken. What must stay true: where gqlparser is looser than the
//! specification it stays so here: an integer may have 64 bits, and `{}` passes for a text.

use std::collections::HashSet;

use super::Stop;
use super::ast::{Child, Literal, Type, define, kind};
use super::query::Walk;
use super::schema::{Merged, hold};

const SCALARS: [&str; 5] = ["Int", "Float", "String", "Boolean", "ID"];
/// What Go's `strconv.ParseBool` takes.
const BOOLEANS: [&str; 12] = ["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"];

impl<'a> Walk<'a> {
    /// A value that is given for an argument or a variable.
    pub(super) fn given(&mut self, value: &'a Literal, of: &'a Type, named: &'a Merged<'a>, default: bool) -> Result<(), Stop> {
        if !is_custom(named) {
            self.reads(value)?;
        }
        self.value(value, Some((of, named)), default)
    }

    /// `default` says that the place has one that is not null.
    fn value(&mut self, value: &'a Literal, of: Option<(&'a Type, &'a Merged<'a>)>, default: bool) -> Result<(), Stop> {
        let budget = self.known.budget;
        match value.kind {
            kind::VARIABLE => self.variable(value, of, default)?,
            kind::LIST => {
                let inner = of.and_then(|(of, named)| Some((of.elem.as_deref()?, named)));
                for child in &value.children {
                    let element = child.value.as_ref().ok_or(Stop::Invalid)?;
                    budget.deeper(|| self.value(element, inner, false))?;
                }
            }
            kind::OBJECT => {
                let mut seen = HashSet::new();
                for Child { name, value, .. } in &value.children {
                    hold(seen.insert(name.as_str()))?;
                    let field = of.and_then(|(_, named)| named.field(name));
                    let named = field.and_then(|field| Some((&field.of, self.known.schema.of(field.of.name())?)));
                    let default = field.and_then(|field| field.default_value.as_ref()).is_some_and(|one| one.kind != kind::NULL);
                    let member = value.as_ref().ok_or(Stop::Invalid)?;
                    budget.deeper(|| self.value(member, named, default))?;
                }
            }
            _ => budget.spend(1)?,
        }
        match of {
            Some((of, named)) => self.right(value, of, named),
            None => Ok(()),
        }
    }

    fn variable(&mut self, value: &'a Literal, of: Option<(&'a Type, &'a Merged<'a>)>, default: bool) -> Result<(), Stop> {
        let variable = *self.variables.get(value.raw.as_str()).ok_or(Stop::Invalid)?;
        self.named.insert(&value.raw);
        let own = variable.default_value.as_ref().is_some_and(|own| own.kind != kind::NULL);
        let fits = of.is_none_or(|(of, _)| variable.of.fits(of, of.non_null && !default && !own));
        hold(fits)
    }

    /// The value is one of the type.
    fn right(&self, value: &Literal, of: &Type, named: &Merged<'_>) -> Result<(), Stop> {
        hold(!(value.kind == kind::NULL && of.non_null))?;
        let one_of = named.directives.iter().any(|directive| directive.name == "oneOf");
        if one_of && value.kind == kind::OBJECT {
            self.one_of(value)?;
        }
        if is_custom(named) {
            return Ok(());
        }
        let is = |names: &[&str]| hold(names.contains(&named.name));
        match value.kind {
            kind::NULL | kind::VARIABLE => Ok(()),
            kind::LIST => hold(of.elem.is_some()),
            kind::INT => is(&["Int", "Float", "ID"]),
            kind::FLOAT => is(&["Float"]),
            kind::BOOLEAN => is(&["Boolean"]),
            kind::STRING | kind::BLOCK => {
                hold(named.kind != define::ENUM)?;
                is(&["String", "ID"])
            }
            kind::ENUM => hold(named.kind == define::ENUM && named.has_value(&value.raw)),
            kind::OBJECT => {
                self.known.budget.spend(named.fields.len())?;
                let given: HashSet<&str> = value.children.iter().map(|child| child.name.as_str()).collect();
                let mut needed = named.fields.iter().filter(|field| field.of.non_null && field.default_value.is_none());
                hold(needed.all(|field| given.contains(field.name.as_str())))?;
                hold(
                    !one_of
                        || matches!(value.children.as_slice(), [only] if only.value.as_ref().is_some_and(|value| value.kind != kind::NULL)),
                )?;
                hold(given.iter().all(|name| named.field(name).is_some()))
            }
            _ => Err(Stop::Invalid),
        }
    }

    /// A variable in an input object that takes one of its fields must have a value.
    fn one_of(&self, value: &Literal) -> Result<(), Stop> {
        let variables = value.children.iter().filter_map(|child| child.value.as_ref()).filter(|one| one.kind == kind::VARIABLE);
        let mut known = variables.filter_map(|one| self.variables.get(one.raw.as_str()));
        hold(known.all(|variable| variable.of.non_null))
    }

    /// All numbers in it fit into 64 bits; a variable stands for its default.
    fn reads(&self, value: &Literal) -> Result<(), Stop> {
        let budget = self.known.budget;
        match value.kind {
            kind::INT => hold(value.raw.parse::<i64>().is_ok()),
            kind::FLOAT => hold(value.raw.parse::<f64>().is_ok_and(f64::is_finite)),
            kind::BOOLEAN => hold(BOOLEANS.contains(&value.raw.as_str())),
            kind::VARIABLE => {
                let default = self.variables.get(value.raw.as_str()).and_then(|variable| variable.default_value.as_ref());
                default.map_or(Ok(()), |default| budget.deeper(|| self.reads(default)))
            }
            kind::LIST | kind::OBJECT => {
                value.children.iter().filter_map(|child| child.value.as_ref()).try_for_each(|one| budget.deeper(|| self.reads(one)))
            }
            _ => Ok(()),
        }
    }
}

/// A scalar of the schema's own, of which nothing is known.
fn is_custom(named: &Merged<'_>) -> bool {
    named.kind == define::SCALAR && !SCALARS.contains(&named.name)
}
