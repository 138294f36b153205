//! Fields of one name in the answer can be one field (GraphQL specification, October 2021, section 5.3.2).
//!
//! In: selections whose fields were found in the schema. Out: nothing, or that two of them cannot be merged. What must stay true: the same
//! comparisons as gqlparser's, in its order: it remembers which fragments it has compared, forgets it at places of its own, and so misses
//! some conflicts; a cleaner memory would refuse what OPA takes. It is exponential in nested fields of one name, which is why each
//! comparison is paid for.

use std::collections::{HashMap, HashSet};

use super::Stop;
use super::ast::{Argument, Child, Field, FieldDefinition, Literal, Selection, Type, define, kind};
use super::query::Known;
use super::schema::{Merged, hold};

pub(super) struct Merging<'a> {
    known: Known<'a>,
    /// Where a field stands, by its place in memory: one name means something else in each type.
    found: HashMap<*const Field, (&'a Merged<'a>, &'a FieldDefinition)>,
    /// Pairs of fragments that were compared, and whether only as parts of different objects.
    pairs: HashMap<(&'a str, &'a str), bool>,
    /// Fragments that were compared with the fields at hand.
    compared: HashSet<&'a str>,
}

/// Fields by their names in the answer, and fragments, in order.
#[derive(Default)]
struct Collected<'a> {
    fields: Vec<(&'a str, Vec<&'a Field>)>,
    places: HashMap<&'a str, usize>,
    spreads: Vec<&'a str>,
}

impl<'a> Collected<'a> {
    fn add(&mut self, set: &'a [Selection], known: Known<'a>) -> Result<(), Stop> {
        for selection in set {
            known.budget.spend(1)?;
            match selection {
                Selection::Field(field) => {
                    let name = field.response_name();
                    let place = *self.places.entry(name).or_insert(self.fields.len());
                    match self.fields.get_mut(place) {
                        Some((_, fields)) => fields.push(field),
                        None => self.fields.push((name, vec![field])),
                    }
                }
                Selection::Inline(inline) => known.budget.deeper(|| self.add(&inline.selection_set, known))?,
                Selection::Spread(spread) => self.spreads.push(&spread.name),
            }
        }
        Ok(())
    }

    fn of(&self, name: &str) -> &[&'a Field] {
        self.places.get(name).and_then(|place| self.fields.get(*place)).map_or(&[], |(_, fields)| fields)
    }
}

impl<'a> Merging<'a> {
    pub(super) fn new(known: Known<'a>) -> Self {
        Self { known, found: HashMap::new(), pairs: HashMap::new(), compared: HashSet::new() }
    }

    /// A field stands in a type.
    pub(super) fn found(&mut self, field: &'a Field, parent: &'a Merged<'a>, definition: &'a FieldDefinition) {
        self.found.insert(std::ptr::from_ref(field), (parent, definition));
    }

    /// The selections of one set can be merged with each other.
    pub(super) fn within(&mut self, set: &'a [Selection]) -> Result<(), Stop> {
        if set.is_empty() {
            return Ok(());
        }
        let all = self.collected(set)?;
        for (_, fields) in &all.fields {
            for (place, one) in fields.iter().enumerate() {
                for other in fields.iter().skip(place + 1) {
                    self.fields(false, one, other)?;
                }
            }
        }
        self.compared.clear();
        for (place, one) in all.spreads.iter().enumerate() {
            self.with_fragment(false, &all, one)?;
            for other in all.spreads.iter().skip(place + 1) {
                self.fragments(false, one, other)?;
            }
        }
        Ok(())
    }

    fn collected(&self, set: &'a [Selection]) -> Result<Collected<'a>, Stop> {
        let mut all = Collected::default();
        all.add(set, self.known)?;
        Ok(all)
    }

    fn fragment(&self, name: &str) -> Result<Option<Collected<'a>>, Stop> {
        self.known.fragments.get(name).map(|fragment| self.collected(&fragment.selection_set)).transpose()
    }

    fn with_fragment(&mut self, exclusive: bool, all: &Collected<'a>, name: &'a str) -> Result<(), Stop> {
        if !self.compared.insert(name) {
            return Ok(());
        }
        let Some(of) = self.fragment(name)? else { return Ok(()) };
        self.between(exclusive, all, &of)?;
        let budget = self.known.budget;
        of.spreads
            .iter()
            .filter(|further| **further != name)
            .try_for_each(|further| budget.deeper(|| self.with_fragment(exclusive, all, further)))
    }

    fn fragments(&mut self, exclusive: bool, one: &'a str, other: &'a str) -> Result<(), Stop> {
        self.known.budget.spend(1)?;
        // Compared as parts of one object is more than compared as parts of different ones.
        if one == other || self.pairs.get(&(one, other)).is_some_and(|before| exclusive || !before) {
            return Ok(());
        }
        self.pairs.insert((one, other), exclusive);
        self.pairs.insert((other, one), exclusive);
        let (Some(first), Some(second)) = (self.fragment(one)?, self.fragment(other)?) else { return Ok(()) };
        self.between(exclusive, &first, &second)?;
        let budget = self.known.budget;
        second.spreads.iter().try_for_each(|further| budget.deeper(|| self.fragments(exclusive, one, further)))?;
        first.spreads.iter().try_for_each(|further| budget.deeper(|| self.fragments(exclusive, further, other)))
    }

    fn between(&mut self, exclusive: bool, first: &Collected<'a>, second: &Collected<'a>) -> Result<(), Stop> {
        for (name, fields) in &first.fields {
            for one in fields {
                for other in second.of(name) {
                    self.fields(exclusive, one, other)?;
                }
            }
        }
        Ok(())
    }

    fn fields(&mut self, parents_exclusive: bool, one: &'a Field, other: &'a Field) -> Result<(), Stop> {
        let budget = self.known.budget;
        budget.spend(1)?;
        let found = |field: &'a Field| self.found.get(&std::ptr::from_ref(field)).copied();
        let (Some((parent, definition)), Some((other_parent, other_definition))) = (found(one), found(other)) else {
            return Ok(());
        };
        let objects = parent.kind == define::OBJECT && other_parent.kind == define::OBJECT;
        let exclusive = parents_exclusive || (objects && parent.name != other_parent.name);
        if !exclusive {
            hold(one.name == other.name)?;
            self.same_arguments(&one.arguments, &other.arguments)?;
        }
        self.same_shape(&definition.of, &other_definition.of)?;
        budget.deeper(|| self.inside(exclusive, &one.selection_set, &other.selection_set))
    }

    fn inside(&mut self, exclusive: bool, one: &'a [Selection], other: &'a [Selection]) -> Result<(), Stop> {
        let (first, second) = (self.collected(one)?, self.collected(other)?);
        self.between(exclusive, &first, &second)?;
        for (all, spreads) in [(&first, &second.spreads), (&second, &first.spreads)] {
            for name in spreads {
                self.compared.clear();
                self.with_fragment(exclusive, all, name)?;
            }
        }
        for one in &first.spreads {
            for other in &second.spreads {
                self.fragments(exclusive, one, other)?;
            }
        }
        Ok(())
    }

    fn same_arguments(&self, one: &[Argument], other: &[Argument]) -> Result<(), Stop> {
        hold(one.len() == other.len())?;
        for argument in one {
            let mut matched = false;
            for candidate in other {
                self.known.budget.spend(1)?;
                matched = argument.name == candidate.name && self.same(argument.value.as_ref(), candidate.value.as_ref())?;
                if matched {
                    break;
                }
            }
            hold(matched)?;
        }
        Ok(())
    }

    fn same(&self, one: Option<&Literal>, other: Option<&Literal>) -> Result<bool, Stop> {
        let (one, other) = (one.ok_or(Stop::Invalid)?, other.ok_or(Stop::Invalid)?);
        self.known.budget.spend(1 + one.children.len())?;
        if one.kind != other.kind || one.raw != other.raw || one.children.len() != other.children.len() {
            return Ok(false);
        }
        for (one, other) in in_order(one).into_iter().zip(in_order(other)) {
            if one.name != other.name || !self.same(one.value.as_ref(), other.value.as_ref())? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Two fields that return different things cannot be one, not even in different objects.
    fn same_shape(&self, one: &Type, other: &Type) -> Result<(), Stop> {
        match (&one.elem, &other.elem) {
            (Some(one), Some(other)) => return self.same_shape(one, other),
            (None, None) => hold(one.non_null == other.non_null)?,
            _ => return Err(Stop::Invalid),
        }
        let of = |name: &str| self.known.schema.of(name).filter(|of| of.is_leaf()).map(|of| of.name);
        hold(of(&one.named_type).zip(of(&other.named_type)).is_none_or(|(one, other)| one == other))
    }
}

/// The members of an object by their names, since their order means nothing; the elements of a list as they are.
fn in_order(of: &Literal) -> Vec<&Child> {
    let mut children: Vec<&Child> = of.children.iter().collect();
    if of.kind == kind::OBJECT {
        children.sort_by(|one, other| one.name.cmp(&other.name));
    }
    children
}
