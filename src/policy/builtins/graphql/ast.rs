//! The trees of GraphQL documents, in the shape in which OPA shows them.
//!
//! In: a parsed document, or the JSON of one. Out: its JSON, without what is empty. What must stay true: names, numbers and what is
//! left out are those of gqlparser's Go structures after OPA has pruned them, and JSON is read as Go reads it into them: what is
//! missing is empty, what is unknown is passed over, and what has another type makes the document unreadable. One difference: Go
//! also takes a name in other case, where we want it as OPA writes it.

use serde::{Deserialize, Deserializer, Serialize};

/// `#` lines before a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Comments {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) list: Vec<Comment>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Comment {
    /// With its `#`.
    pub(super) value: String,
}

/// Operations and fragments.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct QueryDocument {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) operations: Vec<Operation>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) fragments: Vec<Fragment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<Comments>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Operation {
    /// `query`, `mutation` or `subscription`; empty in JSON that does not say, which is a query.
    pub(super) operation: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) variable_definitions: Vec<Variable>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) directives: Vec<Directive>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) selection_set: Vec<Selection>,
    // Go reads these structures by hand, and forgets their comments.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub(super) comment: Option<Comments>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Fragment {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) variable_definition: Vec<Variable>,
    pub(super) type_condition: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) directives: Vec<Directive>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) selection_set: Vec<Selection>,
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub(super) comment: Option<Comments>,
}

/// A variable an operation takes.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Variable {
    pub(super) variable: String,
    #[serde(rename = "Type")]
    pub(super) of: Type,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) default_value: Option<Literal>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) directives: Vec<Directive>,
    pub(super) used: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<Comments>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Selection {
    Field(Field),
    Spread(Spread),
    Inline(Inline),
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Field {
    /// The name in the answer; the field's own where the query gives no other.
    pub(super) alias: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) arguments: Vec<Argument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) directives: Vec<Directive>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) selection_set: Vec<Selection>,
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub(super) comment: Option<Comments>,
}

impl Field {
    /// Its name in the answer.
    pub(super) fn response_name(&self) -> &str {
        if self.alias.is_empty() { &self.name } else { &self.alias }
    }
}

/// `...Name`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Spread {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) directives: Vec<Directive>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<Comments>,
}

/// `... on Type { … }`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Inline {
    pub(super) type_condition: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) directives: Vec<Directive>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) selection_set: Vec<Selection>,
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub(super) comment: Option<Comments>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Argument {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<Literal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<Comments>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Directive {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) arguments: Vec<Argument>,
    /// Known after validation only, so always empty.
    pub(super) location: String,
}

/// What a [`Literal`] is; the numbers are those of gqlparser.
pub(super) mod kind {
    pub(in super::super) const VARIABLE: i64 = 0;
    pub(in super::super) const INT: i64 = 1;
    pub(in super::super) const FLOAT: i64 = 2;
    pub(in super::super) const STRING: i64 = 3;
    pub(in super::super) const BLOCK: i64 = 4;
    pub(in super::super) const BOOLEAN: i64 = 5;
    pub(in super::super) const NULL: i64 = 6;
    pub(in super::super) const ENUM: i64 = 7;
    pub(in super::super) const LIST: i64 = 8;
    pub(in super::super) const OBJECT: i64 = 9;
}

/// A value as it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Literal {
    pub(super) raw: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) children: Vec<Child>,
    pub(super) kind: i64,
    pub(super) expected_type_has_default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<Comments>,
}

/// A member of an object, or an element of a list, which has no name.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Child {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<Literal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<Comments>,
}

/// `Name`, `[Name!]!`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Type {
    /// Empty for a list.
    pub(super) named_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) elem: Option<Box<Self>>,
    pub(super) non_null: bool,
}

impl Type {
    /// The name inside all lists.
    pub(super) fn name(&self) -> &str {
        let mut of = self;
        while of.named_type.is_empty()
            && let Some(elem) = &of.elem
        {
            of = elem;
        }
        &of.named_type
    }

    /// True where a value of this type may stand for one of the other.
    pub(super) fn fits(&self, other: &Self, other_non_null: bool) -> bool {
        let elements = match (&self.elem, &other.elem) {
            (Some(own), Some(other)) => own.fits(other, other.non_null),
            (own, _) => own.is_none(),
        };
        self.named_type == other.named_type && elements && (self.non_null || !other_non_null)
    }
}

/// A schema as it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct SchemaDocument {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) schema: Vec<Roots>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) schema_extension: Vec<Roots>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) directives: Vec<DirectiveDefinition>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) definitions: Vec<Definition>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) extensions: Vec<Definition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<Comments>,
}

/// `schema { query: … }`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Roots {
    pub(super) description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) directives: Vec<Directive>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) operation_types: Vec<Root>,
    #[serde(flatten)]
    pub(super) comments: Around,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end_of_definition_comment: Option<Comments>,
}

/// The comments before a description and after it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Around {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) before_description_comment: Option<Comments>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) after_description_comment: Option<Comments>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Root {
    pub(super) operation: String,
    #[serde(rename = "Type")]
    pub(super) of: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<Comments>,
}

/// What a [`Definition`] may be.
pub(super) mod define {
    pub(in super::super) const SCALAR: &str = "SCALAR";
    pub(in super::super) const OBJECT: &str = "OBJECT";
    pub(in super::super) const INTERFACE: &str = "INTERFACE";
    pub(in super::super) const UNION: &str = "UNION";
    pub(in super::super) const ENUM: &str = "ENUM";
    pub(in super::super) const INPUT: &str = "INPUT_OBJECT";
}

/// A type, or what extends one.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Definition {
    pub(super) kind: String,
    pub(super) description: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) directives: Vec<Directive>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) interfaces: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) fields: Vec<FieldDefinition>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) types: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) enum_values: Vec<EnumValue>,
    pub(super) built_in: bool,
    #[serde(flatten)]
    pub(super) comments: Around,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end_of_definition_comment: Option<Comments>,
}

/// A field of an object, an interface or an input object.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct FieldDefinition {
    pub(super) description: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) arguments: Vec<Parameter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) default_value: Option<Literal>,
    #[serde(rename = "Type")]
    pub(super) of: Type,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) directives: Vec<Directive>,
    #[serde(flatten)]
    pub(super) comments: Around,
}

/// An argument a field or a directive takes.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Parameter {
    pub(super) description: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) default_value: Option<Literal>,
    #[serde(rename = "Type")]
    pub(super) of: Type,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) directives: Vec<Directive>,
    #[serde(flatten)]
    pub(super) comments: Around,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct EnumValue {
    pub(super) description: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) directives: Vec<Directive>,
    #[serde(flatten)]
    pub(super) comments: Around,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct DirectiveDefinition {
    pub(super) description: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) arguments: Vec<Parameter>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) locations: Vec<String>,
    pub(super) is_repeatable: bool,
    #[serde(flatten)]
    pub(super) comments: Around,
}

/// Whatever stands among selections is read as a field, as in Go: a spread and an inline fragment are fields without an alias, which
/// no schema has.
impl<'de> Deserialize<'de> for Selection {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Field::deserialize(from).map(Self::Field)
    }
}
