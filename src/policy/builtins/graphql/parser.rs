//! GraphQL queries, and what queries and schemas share: values, directives and types.
//!
//! In: a text. Out: its tree, with the comments gqlparser keeps. What must stay true: recursion ends at [`DEPTH`] and the tree holds
//! no more than [`TOKENS`] tokens, whatever the text; what gqlparser takes is taken and what it refuses is refused.

use super::Stop;
use super::ast::{Argument, Child, Comment, Comments, Directive, Field, Fragment, Inline, Literal, Operation, QueryDocument};
use super::ast::{Selection, Spread, Type, Variable, kind};
use super::lexer::{Kind, Lexer, Mark, Token};

/// Brackets that may be open at once. Queries people write stay below 20; a value makes three levels of JSON out of each, and what
/// reads JSON ends at 128.
const DEPTH: usize = 36;
/// Tokens a text may have. Each makes half a kilobyte at most, and some hundred nanoseconds.
const TOKENS: usize = 100_000;

pub(super) struct Parser<'t> {
    lexer: Lexer<'t>,
    peeked: Option<Token<'t>>,
    /// The comments right before the token that was peeked at.
    comment: Option<Comments>,
    depth: usize,
    tokens: usize,
}

/// The tree of a query.
pub(super) fn query(text: &str) -> Result<QueryDocument, Stop> {
    let mut parser = Parser::new(text);
    let mut document = QueryDocument::default();
    loop {
        let token = parser.peek()?;
        match (token.kind, token.value.as_ref()) {
            (Kind::End, _) => return Ok(document),
            (Kind::Name, "query" | "mutation" | "subscription") | (Kind::Punctuation(Mark::BraceL), _) => {
                document.operations.push(parser.operation()?);
            }
            (Kind::Name, "fragment") => document.fragments.push(parser.fragment()?),
            _ => return Err(Stop::Invalid),
        }
    }
}

impl<'t> Parser<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { lexer: Lexer::new(text), peeked: None, comment: None, depth: DEPTH, tokens: TOKENS }
    }

    pub(super) fn peek(&mut self) -> Result<&Token<'t>, Stop> {
        if self.peeked.is_none() {
            let mut list = Vec::new();
            let token = loop {
                self.tokens = self.tokens.checked_sub(1).ok_or(Stop::TooMuch)?;
                match self.lexer.next()? {
                    comment if comment.kind == Kind::Comment => list.push(Comment { value: comment.value.into_owned() }),
                    token => break token,
                }
            };
            if !list.is_empty() {
                self.comment = Some(Comments { list });
            }
            self.peeked = Some(token);
        }
        self.peeked.as_ref().ok_or(Stop::Invalid)
    }

    pub(super) fn next(&mut self) -> Result<Token<'t>, Stop> {
        self.peek()?;
        self.comment = None;
        self.peeked.take().ok_or(Stop::Invalid)
    }

    /// The comments before the next token.
    pub(super) fn comment(&mut self) -> Result<Option<Comments>, Stop> {
        self.peek()?;
        Ok(self.comment.clone())
    }

    pub(super) fn is(&mut self, mark: Mark) -> Result<bool, Stop> {
        Ok(self.peek()?.kind == Kind::Punctuation(mark))
    }

    /// True where the next token reads so; gqlparser asks only at some places whether it is a name.
    pub(super) fn reads(&mut self, word: &str) -> Result<bool, Stop> {
        Ok(self.peek()?.value == word)
    }

    pub(super) fn skip(&mut self, mark: Mark) -> Result<bool, Stop> {
        let there = self.is(mark)?;
        if there {
            self.next()?;
        }
        Ok(there)
    }

    pub(super) fn expect(&mut self, mark: Mark) -> Result<(), Stop> {
        if self.skip(mark)? { Ok(()) } else { Err(Stop::Invalid) }
    }

    /// The comments before the word.
    pub(super) fn keyword(&mut self, word: &str) -> Result<Option<Comments>, Stop> {
        let comment = self.comment()?;
        let token = self.next()?;
        if token.kind == Kind::Name && token.value == word { Ok(comment) } else { Err(Stop::Invalid) }
    }

    pub(super) fn name(&mut self) -> Result<String, Stop> {
        let token = self.next()?;
        if token.kind == Kind::Name { Ok(token.value.into_owned()) } else { Err(Stop::Invalid) }
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Stop>) -> Result<T, Stop> {
        self.depth = self.depth.checked_sub(1).ok_or(Stop::TooMuch)?;
        let said = inner(self);
        self.depth += 1;
        said
    }

    /// Everything between two brackets, perhaps nothing.
    fn many<T>(&mut self, close: Mark, mut each: impl FnMut(&mut Self) -> Result<T, Stop>) -> Result<Vec<T>, Stop> {
        self.nested(|parser| {
            parser.next()?;
            let mut list = Vec::new();
            while !parser.is(close)? {
                list.push(each(parser)?);
            }
            parser.next()?;
            Ok(list)
        })
    }

    /// At least one between two brackets, or no brackets; and the comments before the last.
    pub(super) fn some<T>(
        &mut self,
        (open, close): (Mark, Mark),
        mut each: impl FnMut(&mut Self) -> Result<T, Stop>,
    ) -> Result<(Vec<T>, Option<Comments>), Stop> {
        if !self.is(open)? {
            return Ok((Vec::new(), None));
        }
        self.nested(|parser| {
            parser.next()?;
            let mut list = vec![each(parser)?];
            while !parser.is(close)? {
                list.push(each(parser)?);
            }
            let comment = parser.comment()?;
            parser.next()?;
            Ok((list, comment))
        })
    }

    /// `query`, `mutation` or `subscription`.
    pub(super) fn operation_type(&mut self) -> Result<String, Stop> {
        let token = self.next()?;
        match token.value.as_ref() {
            "query" | "mutation" | "subscription" => Ok(token.value.into_owned()),
            _ => Err(Stop::Invalid),
        }
    }

    fn operation(&mut self) -> Result<Operation, Stop> {
        if self.is(Mark::BraceL)? {
            // The comment before it is lost.
            return Ok(Operation { operation: "query".to_owned(), selection_set: self.selection_set()?, ..Operation::default() });
        }
        let comment = self.comment()?;
        let operation = self.operation_type()?;
        let name = if self.peek()?.kind == Kind::Name { self.name()? } else { String::new() };
        Ok(Operation {
            operation,
            name,
            variable_definitions: self.variables()?,
            directives: self.directives(false)?,
            selection_set: self.selection_set()?,
            comment,
        })
    }

    fn fragment(&mut self) -> Result<Fragment, Stop> {
        let comment = self.keyword("fragment")?;
        if self.reads("on")? {
            return Err(Stop::Invalid);
        }
        let name = self.name()?;
        let variable_definition = self.variables()?;
        self.keyword("on")?;
        Ok(Fragment {
            name,
            variable_definition,
            type_condition: self.name()?,
            directives: self.directives(false)?,
            selection_set: self.selection_set()?,
            comment,
        })
    }

    fn variables(&mut self) -> Result<Vec<Variable>, Stop> {
        Ok(self.some((Mark::ParenL, Mark::ParenR), Self::variable)?.0)
    }

    fn variable(&mut self) -> Result<Variable, Stop> {
        let comment = self.comment()?;
        self.expect(Mark::Dollar)?;
        let variable = self.name()?;
        self.expect(Mark::Colon)?;
        let of = self.type_reference()?;
        let default_value = if self.skip(Mark::Equals)? { Some(self.literal(true)?) } else { None };
        Ok(Variable { variable, of, default_value, directives: self.directives(false)?, used: false, comment })
    }

    fn selection_set(&mut self) -> Result<Vec<Selection>, Stop> {
        if !self.is(Mark::BraceL)? {
            return Err(Stop::Invalid);
        }
        Ok(self.some((Mark::BraceL, Mark::BraceR), Self::selection)?.0)
    }

    fn selection(&mut self) -> Result<Selection, Stop> {
        if !self.is(Mark::Spread)? {
            return self.field().map(Selection::Field);
        }
        let comment = self.comment()?;
        self.next()?;
        let token = self.peek()?;
        if token.kind == Kind::Name && token.value != "on" {
            return Ok(Selection::Spread(Spread { name: self.name()?, directives: self.directives(false)?, comment }));
        }
        let type_condition = if self.reads("on")? {
            self.next()?;
            self.name()?
        } else {
            String::new()
        };
        let directives = self.directives(false)?;
        Ok(Selection::Inline(Inline { type_condition, directives, selection_set: self.selection_set()?, comment }))
    }

    fn field(&mut self) -> Result<Field, Stop> {
        let comment = self.comment()?;
        let alias = self.name()?;
        let name = if self.skip(Mark::Colon)? { self.name()? } else { alias.clone() };
        let arguments = self.arguments(false)?;
        let directives = self.directives(false)?;
        let selection_set = if self.is(Mark::BraceL)? { self.selection_set()? } else { Vec::new() };
        Ok(Field { alias, name, arguments, directives, selection_set, comment })
    }

    fn arguments(&mut self, constant: bool) -> Result<Vec<Argument>, Stop> {
        let list = self.some((Mark::ParenL, Mark::ParenR), |parser| {
            let comment = parser.comment()?;
            let name = parser.name()?;
            parser.expect(Mark::Colon)?;
            Ok(Argument { name, value: Some(parser.literal(constant)?), comment })
        })?;
        Ok(list.0)
    }

    pub(super) fn directives(&mut self, constant: bool) -> Result<Vec<Directive>, Stop> {
        let mut list = Vec::new();
        while self.skip(Mark::At)? {
            list.push(Directive { name: self.name()?, arguments: self.arguments(constant)?, location: String::new() });
        }
        Ok(list)
    }

    pub(super) fn type_reference(&mut self) -> Result<Type, Stop> {
        let mut of = if self.skip(Mark::BracketL)? {
            let elem = self.nested(Self::type_reference)?;
            self.expect(Mark::BracketR)?;
            Type { elem: Some(Box::new(elem)), ..Type::default() }
        } else {
            Type { named_type: self.name()?, ..Type::default() }
        };
        of.non_null = self.skip(Mark::Bang)?;
        Ok(of)
    }

    /// A value; a constant holds no variables.
    pub(super) fn literal(&mut self, constant: bool) -> Result<Literal, Stop> {
        // Only lists and objects keep the comment before them.
        let comment = self.comment()?;
        let token = self.peek()?;
        let kind = match (token.kind, token.value.as_ref()) {
            (Kind::Punctuation(Mark::BracketL), _) => {
                let element = |parser: &mut Self| Ok(Child { value: Some(parser.literal(constant)?), ..Child::default() });
                let children = self.many(Mark::BracketR, element)?;
                return Ok(Literal { kind: kind::LIST, children, comment, ..Literal::default() });
            }
            (Kind::Punctuation(Mark::BraceL), _) => {
                let children = self.many(Mark::BraceR, |parser| parser.member(constant))?;
                return Ok(Literal { kind: kind::OBJECT, children, comment, ..Literal::default() });
            }
            (Kind::Punctuation(Mark::Dollar), _) if !constant => {
                self.next()?;
                return Ok(Literal { kind: kind::VARIABLE, raw: self.name()?, ..Literal::default() });
            }
            (Kind::Int, _) => kind::INT,
            (Kind::Float, _) => kind::FLOAT,
            (Kind::Text, _) => kind::STRING,
            (Kind::Block, _) => kind::BLOCK,
            (Kind::Name, "true" | "false") => kind::BOOLEAN,
            (Kind::Name, "null") => kind::NULL,
            (Kind::Name, _) => kind::ENUM,
            _ => return Err(Stop::Invalid),
        };
        Ok(Literal { kind, raw: self.next()?.value.into_owned(), ..Literal::default() })
    }

    fn member(&mut self, constant: bool) -> Result<Child, Stop> {
        let comment = self.comment()?;
        let name = self.name()?;
        self.expect(Mark::Colon)?;
        Ok(Child { name, value: Some(self.literal(constant)?), comment })
    }
}
