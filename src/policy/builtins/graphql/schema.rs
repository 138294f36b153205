//! A schema that queries can be checked against, and the rules a schema keeps.
//!
//! In: a schema's tree. Out: its types with what extends them, or that it is no schema. What must stay true: what holds of a schema
//! here holds of it in gqlparser, which leaves out rules of the specification (that there is a query type, that a default has its
//! argument's type) and keeps the others.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::LazyLock;

use super::ast::{Definition, Directive, DirectiveDefinition, EnumValue, FieldDefinition, Parameter, Roots, SchemaDocument, Type};
use super::ast::{define, kind};
use super::{Budget, Stop, sdl};

static PRELUDE: LazyLock<SchemaDocument> = LazyLock::new(|| sdl::schema(include_str!("prelude.graphql")).unwrap_or_default());
/// The fields the type of queries has besides its own, and the one every type has.
static ADDED: LazyLock<SchemaDocument> = LazyLock::new(|| {
    let text = "type Query { __schema: __Schema! __type(name: String!): __Type } type Any { __typename: String }";
    sdl::schema(text).unwrap_or_default()
});
/// Directives of the prelude, which a schema may define anew; the last counts.
const OWN: [&str; 6] = ["include", "skip", "deprecated", "specifiedBy", "defer", "oneOf"];

/// A type together with its extensions.
#[derive(Default)]
pub(super) struct Merged<'d> {
    pub(super) name: &'d str,
    pub(super) kind: &'d str,
    built_in: bool,
    pub(super) directives: Vec<&'d Directive>,
    interfaces: Vec<&'d str>,
    pub(super) fields: Vec<&'d FieldDefinition>,
    members: Vec<&'d str>,
    values: Vec<&'d EnumValue>,
    by_name: HashMap<&'d str, &'d FieldDefinition>,
    value_names: HashSet<&'d str>,
}

impl<'d> Merged<'d> {
    fn add(&mut self, part: &'d Definition) {
        self.directives.extend(&part.directives);
        self.interfaces.extend(part.interfaces.iter().map(String::as_str));
        self.members.extend(part.types.iter().map(String::as_str));
        part.fields.iter().for_each(|field| self.field_added(field));
        self.values.extend(&part.enum_values);
        self.value_names.extend(part.enum_values.iter().map(|value| value.name.as_str()));
    }

    fn field_added(&mut self, field: &'d FieldDefinition) {
        self.fields.push(field);
        self.by_name.entry(&field.name).or_insert(field);
    }

    pub(super) fn field(&self, name: &str) -> Option<&'d FieldDefinition> {
        self.by_name.get(name).copied()
    }

    pub(super) fn has_value(&self, name: &str) -> bool {
        self.value_names.contains(name)
    }

    pub(super) fn is_leaf(&self) -> bool {
        [define::ENUM, define::SCALAR].contains(&self.kind)
    }

    pub(super) fn is_composite(&self) -> bool {
        [define::OBJECT, define::INTERFACE, define::UNION].contains(&self.kind)
    }

    pub(super) fn is_input(&self) -> bool {
        [define::SCALAR, define::ENUM, define::INPUT].contains(&self.kind)
    }
}

/// A schema that keeps its rules.
pub(super) struct Schema<'d> {
    types: BTreeMap<&'d str, Merged<'d>>,
    directives: BTreeMap<&'d str, &'d DirectiveDefinition>,
    /// For an abstract type the objects that may stand for it, for an object itself.
    possible: BTreeMap<&'d str, BTreeSet<&'d str>>,
    /// The types of queries, mutations and subscriptions.
    roots: BTreeMap<&'d str, &'d str>,
}

impl<'d> Schema<'d> {
    /// # Errors
    /// It breaks a rule, or checking it takes too long.
    pub(super) fn new(document: &'d SchemaDocument, budget: &Budget) -> Result<Self, Stop> {
        let prelude: &'d SchemaDocument = &PRELUDE;
        let mut schema =
            Self { types: BTreeMap::new(), directives: BTreeMap::new(), possible: BTreeMap::new(), roots: BTreeMap::new() };
        let definitions = prelude.definitions.iter().map(|definition| (definition, true));
        for (definition, own) in definitions.chain(document.definitions.iter().map(|definition| (definition, definition.built_in)))
        {
            let mut merged = Merged { name: &definition.name, kind: &definition.kind, built_in: own, ..Merged::default() };
            merged.add(definition);
            if schema.types.insert(&definition.name, merged).is_some() {
                return Err(Stop::Invalid);
            }
        }
        for extension in &document.extensions {
            let merged = schema.types.entry(&extension.name);
            let merged = merged.or_insert_with(|| Merged { name: &extension.name, kind: &extension.kind, ..Merged::default() });
            if merged.kind != extension.kind {
                return Err(Stop::Invalid);
            }
            merged.add(extension);
        }
        schema.find_possible();
        for directive in prelude.directives.iter().chain(&document.directives) {
            let name = directive.name.as_str();
            if schema.directives.contains_key(name) && !OWN.contains(&name) {
                return Err(Stop::Invalid);
            }
            schema.directives.insert(name, directive);
        }
        schema.find_roots(document, budget)?;
        schema.check(budget)?;
        if document.schema.is_empty() {
            for (operation, name) in [("query", "Query"), ("mutation", "Mutation"), ("subscription", "Subscription")] {
                if let Some(of) = schema.types.get(name) {
                    schema.roots.entry(operation).or_insert(of.name);
                }
            }
        }
        let added: &'d SchemaDocument = &ADDED;
        if let Some(query) = schema.roots.get("query").and_then(|name| schema.types.get_mut(name)) {
            added.definitions.iter().take(1).flat_map(|own| &own.fields).for_each(|field| query.field_added(field));
        }
        Ok(schema)
    }

    fn find_possible(&mut self) {
        for of in self.types.values() {
            let own = [define::OBJECT, define::INPUT].contains(&of.kind).then_some((of.name, of.name));
            let pairs: Vec<(&str, &str)> = match of.kind {
                define::UNION => of.members.iter().map(|member| (of.name, *member)).collect(),
                define::OBJECT | define::INPUT | define::INTERFACE => {
                    of.interfaces.iter().map(|interface| (*interface, of.name)).chain(own).collect()
                }
                _ => Vec::new(),
            };
            for (abstracted, object) in pairs {
                self.possible.entry(abstracted).or_default().insert(object);
            }
        }
    }

    fn find_roots(&mut self, document: &'d SchemaDocument, budget: &Budget) -> Result<(), Stop> {
        if document.schema.len() > 1 {
            return Err(Stop::Invalid);
        }
        for Roots { operation_types, directives, .. } in document.schema.iter().chain(&document.schema_extension) {
            for root in operation_types {
                let of = self.types.get(root.of.as_str()).ok_or(Stop::Invalid)?;
                self.roots.insert(&root.operation, of.name);
            }
            self.directives_hold(directives.iter(), "SCHEMA", None, true, budget)?;
        }
        Ok(())
    }

    pub(super) fn of(&self, name: &str) -> Option<&Merged<'d>> {
        self.types.get(name)
    }

    pub(super) fn directive(&self, name: &str) -> Option<&'d DirectiveDefinition> {
        self.directives.get(name).copied()
    }

    /// The type of queries, mutations or subscriptions.
    pub(super) fn root(&self, operation: &str) -> Option<&Merged<'d>> {
        self.of(self.roots.get(operation)?)
    }

    pub(super) fn possible(&self, name: &str) -> Option<&BTreeSet<&'d str>> {
        self.possible.get(name)
    }

    /// The field every type has.
    pub(super) fn typename() -> Option<&'static FieldDefinition> {
        ADDED.definitions.get(1)?.fields.first()
    }

    fn check(&self, budget: &Budget) -> Result<(), Stop> {
        for of in self.types.values() {
            self.type_holds(of, budget)?;
        }
        self.inputs_end(budget)?;
        for directive in self.directives.values() {
            free(&directive.name)?;
            self.parameters_hold(&directive.arguments, Some(&directive.name), budget)?;
        }
        Ok(())
    }

    fn type_holds(&self, of: &Merged<'d>, budget: &Budget) -> Result<(), Stop> {
        let place = if of.kind == define::INPUT { "INPUT_FIELD_DEFINITION" } else { "FIELD_DEFINITION" };
        for field in &of.fields {
            budget.spend(1)?;
            free(&field.name)?;
            let named = self.of(field.of.name()).ok_or(Stop::Invalid)?;
            let right = match of.kind {
                define::OBJECT | define::INTERFACE => named.is_leaf() || named.is_composite(),
                define::INPUT => named.is_input(),
                _ => true,
            };
            hold(right)?;
            self.parameters_hold(&field.arguments, None, budget)?;
            self.directives_hold(field.directives.iter(), place, None, true, budget)?;
        }
        for member in &of.members {
            hold(self.of(member).is_some_and(|member| member.kind == define::OBJECT))?;
        }
        for interface in &of.interfaces {
            self.implements(of, interface, budget)?;
        }
        let fields = [define::OBJECT, define::INTERFACE, define::INPUT].contains(&of.kind);
        hold(!fields || !of.fields.is_empty())?;
        hold(of.kind != define::ENUM || !of.values.is_empty())?;
        if of.kind == define::ENUM {
            for value in &of.values {
                hold(!["true", "false", "null"].contains(&value.name.as_str()))?;
                self.directives_hold(value.directives.iter(), "ENUM_VALUE", None, true, budget)?;
            }
        }
        hold(of.by_name.len() == of.fields.len() && of.value_names.len() == of.values.len())?;
        hold(of.members.iter().collect::<HashSet<_>>().len() == of.members.len())?;
        if !of.built_in {
            free(of.name)?;
        }
        // Each part of a type is a place of its own, and here they are together.
        self.directives_hold(of.directives.iter().copied(), of.kind, None, false, budget)
    }

    fn parameters_hold(&self, parameters: &[Parameter], inside: Option<&str>, budget: &Budget) -> Result<(), Stop> {
        for parameter in parameters {
            budget.spend(1)?;
            free(&parameter.name)?;
            hold(self.of(parameter.of.name()).is_some_and(Merged::is_input))?;
            self.directives_hold(parameter.directives.iter(), "ARGUMENT_DEFINITION", inside, true, budget)?;
        }
        Ok(())
    }

    fn directives_hold<'l>(
        &self,
        directives: impl Iterator<Item = &'l Directive>,
        location: &str,
        inside: Option<&str>,
        one_place: bool,
        budget: &Budget,
    ) -> Result<(), Stop> {
        let mut seen = HashSet::new();
        for directive in directives {
            free(&directive.name)?;
            hold(inside != Some(&directive.name))?;
            let definition = self.directive(&directive.name).ok_or(Stop::Invalid)?;
            hold(seen.insert(&directive.name) || definition.is_repeatable || !one_place)?;
            hold(definition.locations.iter().any(|one| one == location))?;
            budget.spend(1 + directive.arguments.len().saturating_mul(definition.arguments.len()))?;
            for argument in &directive.arguments {
                hold(definition.arguments.iter().any(|parameter| parameter.name == argument.name))?;
            }
            for parameter in definition.arguments.iter().filter(|one| one.of.non_null && one.default_value.is_none()) {
                let given = directive.arguments.iter().find(|argument| argument.name == parameter.name);
                let value = given.and_then(|argument| argument.value.as_ref());
                hold(value.is_some_and(|value| value.kind != kind::NULL))?;
            }
        }
        Ok(())
    }

    /// GraphQL specification, October 2021, section 3.6, "IsValidImplementation".
    fn implements(&self, of: &Merged<'d>, name: &str, budget: &Budget) -> Result<(), Stop> {
        let interface = self.of(name).filter(|one| one.kind == define::INTERFACE).ok_or(Stop::Invalid)?;
        for required in &interface.fields {
            let found = of.field(&required.name).ok_or(Stop::Invalid)?;
            hold(self.covariant(&required.of, &found.of))?;
            budget.spend(1 + required.arguments.len().saturating_mul(found.arguments.len()))?;
            for parameter in &required.arguments {
                let own = found.arguments.iter().find(|own| own.name == parameter.name);
                hold(own.is_some_and(|own| parameter.of.fits(&own.of, own.of.non_null)))?;
            }
            for own in found.arguments.iter().filter(|own| own.of.non_null && own.default_value.is_none()) {
                hold(required.arguments.iter().any(|parameter| parameter.name == own.name))?;
            }
        }
        budget.spend(interface.interfaces.len().saturating_mul(of.interfaces.len()))?;
        hold(interface.interfaces.iter().all(|further| of.interfaces.contains(further)))
    }

    fn covariant(&self, required: &Type, actual: &Type) -> bool {
        if required.non_null && !actual.non_null {
            return false;
        }
        if !required.named_type.is_empty() {
            let possible = self.possible(&required.named_type);
            return required.named_type == actual.named_type
                || possible.is_some_and(|possible| possible.contains(actual.named_type.as_str()));
        }
        match (&required.elem, &actual.elem) {
            (Some(required), Some(actual)) => self.covariant(required, actual),
            _ => false,
        }
    }

    /// No input object needs itself, through fields that must be there.
    fn inputs_end(&self, budget: &Budget) -> Result<(), Stop> {
        let (mut done, mut open) = (HashSet::new(), HashSet::new());
        let inputs = self.types.values().filter(|of| of.kind == define::INPUT);
        inputs.into_iter().try_for_each(|of| self.input_ends(of, &mut done, &mut open, budget))
    }

    fn input_ends<'s>(
        &'s self,
        of: &'s Merged<'d>,
        done: &mut HashSet<&'s str>,
        open: &mut HashSet<&'s str>,
        budget: &Budget,
    ) -> Result<(), Stop> {
        hold(!open.contains(of.name))?;
        if !done.insert(of.name) {
            return Ok(());
        }
        open.insert(of.name);
        for field in of.fields.iter().filter(|field| field.of.non_null) {
            if let Some(next) = self.of(&field.of.named_type).filter(|next| next.kind == define::INPUT) {
                budget.deeper(|| self.input_ends(next, done, open, budget))?;
            }
        }
        open.remove(of.name);
        Ok(())
    }
}

/// Names that begin with two underscores are GraphQL's own.
fn free(name: &str) -> Result<(), Stop> {
    hold(!name.starts_with("__"))
}

pub(super) fn hold(rule: bool) -> Result<(), Stop> {
    if rule { Ok(()) } else { Err(Stop::Invalid) }
}
