//! The rules of queries (GraphQL specification, October 2021, section 5) as gqlparser keeps them.
//!
//! In: a schema that keeps its own rules, and a query's tree. Out: nothing, or that a rule is broken. What must stay true: all 27 rules of
//! gqlparser's default set are here, and the first that is broken ends the check; each operation is walked through its fragments, each
//! fragment once an operation. That no fragment holds itself is shown before anything walks through them.

use std::collections::{HashMap, HashSet};

use super::ast::{Argument, Directive, Field, Fragment, Inline, Operation, Parameter, QueryDocument, Selection, Spread, Variable};
use super::ast::{define, kind};
use super::merge::Merging;
use super::schema::{Merged, Schema, hold};
use super::{Budget, Stop};

/// Fields of introspection that list; this many inside each other may not be asked for.
const LISTS: [&str; 4] = ["fields", "interfaces", "possibleTypes", "inputFields"];
const LISTED: usize = 3;

/// What is looked up.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) schema: &'a Schema<'a>,
    pub(super) fragments: &'a HashMap<&'a str, &'a Fragment>,
    pub(super) budget: &'a Budget,
}

/// A walk through one query.
pub(super) struct Walk<'a> {
    pub(super) known: Known<'a>,
    merging: Merging<'a>,
    /// Fragments an operation leads to.
    spread: HashSet<&'a str>,
    /// Of the operation that is walked through: its variables, those it names, and the fragments it was walked through.
    pub(super) variables: HashMap<&'a str, &'a Variable>,
    pub(super) named: HashSet<&'a str>,
    walked: HashSet<&'a str>,
}

/// # Errors
/// A rule is broken, or the check takes too long.
pub(super) fn check<'a>(schema: &'a Schema<'a>, document: &'a QueryDocument, budget: &'a Budget) -> Result<(), Stop> {
    let fragments: HashMap<&str, &Fragment> = document.fragments.iter().map(|one| (one.name.as_str(), one)).collect();
    hold(fragments.len() == document.fragments.len())?;
    let names: HashSet<&str> = document.operations.iter().map(|one| one.name.as_str()).collect();
    hold(names.len() == document.operations.len())?;
    hold(!names.contains("") || names.len() == 1)?;
    let known = Known { schema, fragments: &fragments, budget };
    let (mut lists, mut open) = (HashMap::new(), HashSet::new());
    for fragment in &document.fragments {
        hold(schema.of(&fragment.type_condition).is_some_and(Merged::is_composite))?;
        known.lists_of(&fragment.name, &mut lists, &mut open)?;
    }
    let mut walk = Walk {
        known,
        merging: Merging::new(known),
        spread: HashSet::new(),
        variables: HashMap::new(),
        named: HashSet::new(),
        walked: HashSet::new(),
    };
    for operation in &document.operations {
        walk.introspected(&operation.selection_set, &mut lists)?;
        walk.operation(operation)?;
    }
    hold(document.fragments.iter().all(|fragment| walk.spread.contains(fragment.name.as_str())))?;
    // gqlparser walks through each fragment by itself as well; all but this it has seen from an operation.
    for fragment in &document.fragments {
        walk.introspected(&fragment.selection_set, &mut lists)?;
        walk.merging.within(&fragment.selection_set)?;
    }
    Ok(())
}

impl<'a> Known<'a> {
    /// How many fields that list stand inside each other in a fragment.
    ///
    /// # Errors
    /// It holds itself.
    fn lists_of(&self, name: &'a str, lists: &mut HashMap<&'a str, usize>, open: &mut HashSet<&'a str>) -> Result<usize, Stop> {
        if let Some(known) = lists.get(name) {
            return Ok(*known);
        }
        let Some(fragment) = self.fragments.get(name) else { return Ok(0) };
        hold(open.insert(name))?;
        let most = self.budget.deeper(|| self.lists_in(&fragment.selection_set, lists, open))?;
        open.remove(name);
        lists.insert(name, most);
        Ok(most)
    }

    fn lists_in(
        &self,
        set: &'a [Selection],
        lists: &mut HashMap<&'a str, usize>,
        open: &mut HashSet<&'a str>,
    ) -> Result<usize, Stop> {
        let mut most = 0;
        for selection in set {
            let inside = match selection {
                Selection::Field(Field { name, selection_set, .. }) => {
                    let below = self.budget.deeper(|| self.lists_in(selection_set, lists, open))?;
                    below + usize::from(LISTS.contains(&name.as_str()))
                }
                Selection::Inline(inline) => self.budget.deeper(|| self.lists_in(&inline.selection_set, lists, open))?,
                Selection::Spread(spread) => self.lists_of(&spread.name, lists, open)?,
            };
            most = most.max(inside);
        }
        Ok(most)
    }
}

impl<'a> Walk<'a> {
    /// Introspection does not go round in circles.
    fn introspected(&self, set: &'a [Selection], lists: &mut HashMap<&'a str, usize>) -> Result<(), Stop> {
        for selection in set {
            let inner = match selection {
                Selection::Field(field) if ["__schema", "__type"].contains(&field.name.as_str()) => {
                    hold(self.known.lists_in(&field.selection_set, lists, &mut HashSet::new())? < LISTED)?;
                    continue;
                }
                Selection::Field(field) => &field.selection_set,
                Selection::Inline(inline) => &inline.selection_set,
                Selection::Spread(_) => continue,
            };
            self.known.budget.deeper(|| self.introspected(inner, lists))?;
        }
        Ok(())
    }

    fn operation(&mut self, operation: &'a Operation) -> Result<(), Stop> {
        let (root, location) = match operation.operation.as_str() {
            "" | "query" => ("query", "QUERY"),
            "mutation" => ("mutation", "MUTATION"),
            "subscription" => ("subscription", "SUBSCRIPTION"),
            _ => return Err(Stop::Invalid),
        };
        let root = self.known.schema.root(root).ok_or(Stop::Invalid)?;
        self.named.clear();
        self.walked.clear();
        self.variables = operation.variable_definitions.iter().map(|one| (one.variable.as_str(), one)).collect();
        hold(self.variables.len() == operation.variable_definitions.len())?;
        for variable in &operation.variable_definitions {
            let of = self.known.schema.of(variable.of.name()).ok_or(Stop::Invalid)?;
            hold(of.is_input())?;
            if let Some(default) = &variable.default_value {
                self.given(default, &variable.of, of, false)?;
            }
            self.directives(&variable.directives, "VARIABLE_DEFINITION")?;
        }
        self.directives(&operation.directives, location)?;
        self.selections(root, &operation.selection_set)?;
        let mut unnamed = operation.variable_definitions.iter().filter(|one| !one.used);
        hold(unnamed.all(|one| self.named.contains(one.variable.as_str())))?;
        self.merging.within(&operation.selection_set)?;
        if location == "SUBSCRIPTION" {
            let (mut names, mut seen) = (HashSet::new(), HashSet::new());
            self.top(&operation.selection_set, &mut names, &mut seen)?;
            hold(names.len() <= 1 && !names.iter().any(|name| name.starts_with("__")))?;
        }
        Ok(())
    }

    /// The fields a subscription begins with.
    fn top(&self, set: &'a [Selection], names: &mut HashSet<&'a str>, seen: &mut HashSet<&'a str>) -> Result<(), Stop> {
        for selection in set {
            let inner = match selection {
                Selection::Field(field) => {
                    names.insert(&field.name);
                    continue;
                }
                Selection::Inline(inline) => &inline.selection_set,
                Selection::Spread(spread) if seen.insert(&spread.name) => {
                    &self.known.fragments.get(spread.name.as_str()).ok_or(Stop::Invalid)?.selection_set
                }
                Selection::Spread(_) => continue,
            };
            self.known.budget.deeper(|| self.top(inner, names, seen))?;
        }
        Ok(())
    }

    fn selections(&mut self, parent: &'a Merged<'a>, set: &'a [Selection]) -> Result<(), Stop> {
        let budget = self.known.budget;
        set.iter().try_for_each(|selection| {
            budget.deeper(|| match selection {
                Selection::Field(field) => self.field(parent, field),
                Selection::Inline(inline) => self.inline(parent, inline),
                Selection::Spread(spread) => self.spread(parent, spread),
            })
        })
    }

    fn field(&mut self, parent: &'a Merged<'a>, field: &'a Field) -> Result<(), Stop> {
        let definition = if field.name == "__typename" { Schema::typename() } else { parent.field(&field.name) };
        let definition = definition.ok_or(Stop::Invalid)?;
        let of = self.known.schema.of(definition.of.name()).ok_or(Stop::Invalid)?;
        self.arguments(&field.arguments, &definition.arguments)?;
        self.directives(&field.directives, "FIELD")?;
        hold(of.is_leaf() == field.selection_set.is_empty())?;
        self.merging.found(field, parent, definition);
        self.selections(of, &field.selection_set)?;
        self.merging.within(&field.selection_set)
    }

    fn inline(&mut self, parent: &'a Merged<'a>, inline: &'a Inline) -> Result<(), Stop> {
        let mut of = parent;
        if !inline.type_condition.is_empty() {
            of = self.known.schema.of(&inline.type_condition).filter(|of| of.is_composite()).ok_or(Stop::Invalid)?;
            self.can_be(parent, of)?;
        }
        self.directives(&inline.directives, "INLINE_FRAGMENT")?;
        self.selections(of, &inline.selection_set)?;
        self.merging.within(&inline.selection_set)
    }

    fn spread(&mut self, parent: &'a Merged<'a>, spread: &'a Spread) -> Result<(), Stop> {
        let fragment = *self.known.fragments.get(spread.name.as_str()).ok_or(Stop::Invalid)?;
        let of = self.known.schema.of(&fragment.type_condition).ok_or(Stop::Invalid)?;
        self.spread.insert(&fragment.name);
        self.directives(&spread.directives, "FRAGMENT_SPREAD")?;
        if self.walked.insert(&fragment.name) {
            self.directives(&fragment.directives, "FRAGMENT_DEFINITION")?;
            self.selections(of, &fragment.selection_set)?;
        }
        self.can_be(parent, of)
    }

    /// Some object may be of both types.
    fn can_be(&self, parent: &Merged<'_>, of: &Merged<'_>) -> Result<(), Stop> {
        let schema = self.known.schema;
        let there = schema.possible(of.name);
        self.known.budget.spend(there.map_or(0, std::collections::BTreeSet::len))?;
        let both = match (parent.kind, there) {
            (define::OBJECT, there) => there.is_some_and(|there| there.contains(parent.name)),
            (define::INTERFACE | define::UNION, Some(there)) => {
                schema.possible(parent.name).is_some_and(|here| there.iter().any(|one| here.contains(one)))
            }
            (define::INTERFACE | define::UNION, None) => false,
            _ => true,
        };
        hold(both)
    }

    fn directives(&mut self, directives: &'a [Directive], location: &str) -> Result<(), Stop> {
        let mut seen = HashSet::new();
        for directive in directives {
            let definition = self.known.schema.directive(&directive.name).ok_or(Stop::Invalid)?;
            hold(definition.locations.iter().any(|one| one == location))?;
            hold(seen.insert(&directive.name) || definition.is_repeatable)?;
            self.arguments(&directive.arguments, &definition.arguments)?;
        }
        Ok(())
    }

    fn arguments(&mut self, arguments: &'a [Argument], parameters: &'a [Parameter]) -> Result<(), Stop> {
        self.known.budget.spend(1 + arguments.len().saturating_mul(parameters.len()))?;
        let mut seen = HashSet::new();
        for argument in arguments {
            hold(seen.insert(argument.name.as_str()))?;
            let parameter = parameters.iter().find(|one| one.name == argument.name).ok_or(Stop::Invalid)?;
            let of = self.known.schema.of(parameter.of.name()).ok_or(Stop::Invalid)?;
            let default = parameter.default_value.as_ref().is_some_and(|default| default.kind != kind::NULL);
            self.given(argument.value.as_ref().ok_or(Stop::Invalid)?, &parameter.of, of, default)?;
        }
        let mut needed = parameters.iter().filter(|one| one.of.non_null && one.default_value.is_none());
        hold(needed.all(|one| seen.contains(one.name.as_str())))
    }
}
