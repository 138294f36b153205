//! GraphQL schemas as they are written.
//!
//! In: a text. Out: its tree. What must stay true: see the parser; and a comment stands where gqlparser puts it.

use super::Stop;
use super::ast::{Around, Comments, Definition, DirectiveDefinition, EnumValue, FieldDefinition, Parameter, Root, Roots};
use super::ast::{SchemaDocument, define};
use super::lexer::{Kind, Mark};
use super::parser::Parser;

const BRACES: (Mark, Mark) = (Mark::BraceL, Mark::BraceR);
const LOCATIONS: [&str; 19] = [
    "QUERY",
    "MUTATION",
    "SUBSCRIPTION",
    "FIELD",
    "FRAGMENT_DEFINITION",
    "FRAGMENT_SPREAD",
    "INLINE_FRAGMENT",
    "VARIABLE_DEFINITION",
    "SCHEMA",
    "SCALAR",
    "OBJECT",
    "FIELD_DEFINITION",
    "ARGUMENT_DEFINITION",
    "INTERFACE",
    "UNION",
    "ENUM",
    "ENUM_VALUE",
    "INPUT_OBJECT",
    "INPUT_FIELD_DEFINITION",
];

/// The tree of a schema.
pub(super) fn schema(text: &str) -> Result<SchemaDocument, Stop> {
    let mut parser = Parser::new(text);
    let mut document = SchemaDocument::default();
    while parser.peek()?.kind != Kind::End {
        let (description, before) = parser.description()?.unwrap_or_default();
        let token = parser.peek()?;
        let word = if token.kind == Kind::Name { token.value.clone() } else { return Err(Stop::Invalid) };
        match word.as_ref() {
            "schema" => {
                let after = parser.keyword("schema")?;
                document.schema.push(parser.roots(description, before, after)?);
            }
            "directive" => document.directives.push(parser.directive_definition(description, before)?),
            "extend" if description.is_empty() => parser.extension(&mut document)?,
            _ => {
                let after = parser.comment()?;
                let mut definition = parser.definition(false)?;
                definition.description = description;
                definition.comments = Around { before_description_comment: before, after_description_comment: after };
                document.definitions.push(definition);
            }
        }
    }
    document.comment = parser.comment()?;
    Ok(document)
}

impl Parser<'_> {
    /// A text before what it describes, and the comments before the text.
    fn description(&mut self) -> Result<Option<(String, Option<Comments>)>, Stop> {
        if !matches!(self.peek()?.kind, Kind::Text | Kind::Block) {
            return Ok(None);
        }
        let comment = self.comment()?;
        Ok(Some((self.next()?.value.into_owned(), comment)))
    }

    /// The description of a part of a type; an empty one leaves no comment.
    fn described(&mut self) -> Result<(String, Around), Stop> {
        let (description, before) = self.description()?.unwrap_or_default();
        let before_description_comment = before.filter(|_| !description.is_empty());
        Ok((description, Around { before_description_comment, after_description_comment: self.comment()? }))
    }

    fn roots(&mut self, description: String, before: Option<Comments>, after: Option<Comments>) -> Result<Roots, Stop> {
        let directives = self.directives(true)?;
        let (operation_types, end_of_definition_comment) = self.some(BRACES, |parser| {
            let comment = parser.comment()?;
            let operation = parser.operation_type()?;
            parser.expect(Mark::Colon)?;
            Ok(Root { operation, of: parser.name()?, comment })
        })?;
        let comments = Around { before_description_comment: before, after_description_comment: after };
        Ok(Roots { description, directives, operation_types, comments, end_of_definition_comment })
    }

    fn extension(&mut self, document: &mut SchemaDocument) -> Result<(), Stop> {
        let after = self.keyword("extend")?;
        if self.reads("schema")? {
            self.keyword("schema")?;
            let roots = self.roots(String::new(), None, after)?;
            if roots.directives.is_empty() && roots.operation_types.is_empty() {
                return Err(Stop::Invalid);
            }
            document.schema_extension.push(roots);
            return Ok(());
        }
        let mut definition = self.definition(true)?;
        definition.comments.after_description_comment = after;
        let lists = [
            definition.directives.is_empty(),
            definition.interfaces.is_empty(),
            definition.fields.is_empty(),
            definition.types.is_empty(),
            definition.enum_values.is_empty(),
        ];
        if lists.iter().all(|empty| *empty) {
            return Err(Stop::Invalid);
        }
        document.extensions.push(definition);
        Ok(())
    }

    /// A type from its keyword on.
    fn definition(&mut self, extends: bool) -> Result<Definition, Stop> {
        let token = self.next()?;
        let kind = match (token.kind, token.value.as_ref()) {
            (Kind::Name, "scalar") => define::SCALAR,
            (Kind::Name, "type") => define::OBJECT,
            (Kind::Name, "interface") => define::INTERFACE,
            (Kind::Name, "union") => define::UNION,
            (Kind::Name, "enum") => define::ENUM,
            (Kind::Name, "input") => define::INPUT,
            _ => return Err(Stop::Invalid),
        };
        let mut definition = Definition { kind: kind.to_owned(), name: self.name()?, ..Definition::default() };
        if kind == define::OBJECT || (kind == define::INTERFACE && !extends) {
            definition.interfaces = self.interfaces()?;
        }
        // gqlparser lets an extended input's directives name variables.
        definition.directives = self.directives(!(extends && kind == define::INPUT))?;
        match kind {
            define::OBJECT | define::INTERFACE => {
                (definition.fields, definition.end_of_definition_comment) = self.some(BRACES, Self::field_definition)?;
            }
            define::INPUT => {
                (definition.fields, definition.end_of_definition_comment) = self.some(BRACES, Self::input_field)?;
            }
            define::ENUM => {
                (definition.enum_values, definition.end_of_definition_comment) = self.some(BRACES, Self::enum_value)?;
            }
            define::UNION if self.skip(Mark::Equals)? => definition.types = self.separated(Mark::Pipe)?,
            _ => {}
        }
        Ok(definition)
    }

    fn interfaces(&mut self) -> Result<Vec<String>, Stop> {
        if !self.reads("implements")? {
            return Ok(Vec::new());
        }
        self.next()?;
        self.separated(Mark::Amp)
    }

    /// Names with a mark between them, and perhaps before them.
    fn separated(&mut self, mark: Mark) -> Result<Vec<String>, Stop> {
        self.skip(mark)?;
        let mut names = vec![self.name()?];
        while self.skip(mark)? {
            names.push(self.name()?);
        }
        Ok(names)
    }

    fn field_definition(&mut self) -> Result<FieldDefinition, Stop> {
        let (description, comments) = self.described()?;
        let name = self.name()?;
        let arguments = self.parameters()?;
        self.expect(Mark::Colon)?;
        let of = self.type_reference()?;
        Ok(FieldDefinition { description, name, arguments, default_value: None, of, directives: self.directives(true)?, comments })
    }

    fn input_field(&mut self) -> Result<FieldDefinition, Stop> {
        let Parameter { description, name, default_value, of, directives, comments } = self.parameter()?;
        Ok(FieldDefinition { description, name, arguments: Vec::new(), default_value, of, directives, comments })
    }

    fn parameters(&mut self) -> Result<Vec<Parameter>, Stop> {
        Ok(self.some((Mark::ParenL, Mark::ParenR), Self::parameter)?.0)
    }

    fn parameter(&mut self) -> Result<Parameter, Stop> {
        let (description, comments) = self.described()?;
        let name = self.name()?;
        self.expect(Mark::Colon)?;
        let of = self.type_reference()?;
        let default_value = if self.skip(Mark::Equals)? { Some(self.literal(true)?) } else { None };
        Ok(Parameter { description, name, default_value, of, directives: self.directives(true)?, comments })
    }

    fn enum_value(&mut self) -> Result<EnumValue, Stop> {
        let (description, comments) = self.described()?;
        Ok(EnumValue { description, name: self.name()?, directives: self.directives(true)?, comments })
    }

    fn directive_definition(&mut self, description: String, before: Option<Comments>) -> Result<DirectiveDefinition, Stop> {
        let after = self.keyword("directive")?;
        self.expect(Mark::At)?;
        let name = self.name()?;
        let arguments = self.parameters()?;
        let token = self.peek()?;
        let is_repeatable = token.kind == Kind::Name && token.value == "repeatable";
        if is_repeatable {
            self.next()?;
        }
        self.keyword("on")?;
        let locations = self.separated(Mark::Pipe)?;
        if !locations.iter().all(|location| LOCATIONS.contains(&location.as_str())) {
            return Err(Stop::Invalid);
        }
        let comments = Around { before_description_comment: before, after_description_comment: after };
        Ok(DirectiveDefinition { description, name, arguments, locations, is_repeatable, comments })
    }
}
