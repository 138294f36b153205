//! Which entry points the bytecode VM may judge: those of which no rule can fail, in either engine.
//!
//! In: the checked rules, the data, one entry point. Out: [`Fit`], or the first construct that is not known to mean the same in
//! both engines, with its place. What must stay true: the list says what is allowed, so a construct nobody thought of is the
//! interpreter's. regorus' VM (0.14.1) takes every error inside a rule for undefined, so that `not x` allows where the
//! interpreter fails; it lets the last value of a loop win, fills arrays with undefined values, loses `input` where its first
//! use stood in a comprehension that never ran, and lets a failed condition of a comprehension end the loop around it. Asking
//! only whether a policy compiles, and comparing some answers, would find these on the day somebody uses them.

mod shape;
mod terms;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use regorus::Value;
use regorus::unstable::{AssignOp, Expr, Literal, LiteralStmt, Module, Query, Ref, Rule, RuleBody, RuleHead, Span};

use super::program::{Definition, Names, Occurrence, Program};
use shape::Binding;
pub(super) use shape::Check;
use terms::Allow;
pub(super) use terms::constant;

/// An entry point the VM may judge.
#[derive(Debug)]
pub(super) struct Fit {
    /// What an input must be like; any other goes to the interpreter.
    pub(super) checks: Vec<Check>,
    /// Undefined means undefined, and never a conflict of two values of the entry point itself.
    pub(super) undefined_is_certain: bool,
    /// File → where a `:=` of its rules begins, in bytes. The VM lets `x := undefined` pass, and stops at `x = undefined`, which
    /// means the same where the name is declared once; so its compiler is given the other sign.
    pub(super) assignments: BTreeMap<String, BTreeSet<usize>>,
}

/// Why an entry point is the interpreter's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    pub(super) place: Occurrence,
    pub(super) why: String,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Occurrence { file, line, column, rule } = &self.place;
        write!(f, "{file}:{line}:{column}: {} (in {rule})", self.why)
    }
}

/// Judges whether the VM may judge.
pub(super) fn of(program: &Program, modules: &[Ref<Module>], data: &Value, entry: usize) -> Result<Fit, Unfit> {
    let definitions = program.definitions(modules);
    let mut fit = Fit { checks: Vec::new(), undefined_is_certain: true, assignments: BTreeMap::new() };
    let (mut reached, mut waiting) = (BTreeSet::from([entry]), vec![entry]);
    while let Some(index) = waiting.pop() {
        let own: Vec<&Definition<'_>> = definitions.iter().filter(|definition| definition.node == index).collect();
        kinds(program, index, &own)?;
        for definition in &own {
            let mut reader = Reader::new(program, data, definition, &mut fit);
            reader.rule(definition.rule)?;
        }
        if let Some(second) = conflict(&own) {
            if index != entry {
                let why = "its definitions may give two values, and other rules read it; chain them with `else`";
                return Err(unfit(program, index, second, why));
            }
            fit.undefined_is_certain = false;
        }
        let edges = program.nodes.get(index).map(|node| &node.facts.edges);
        waiting.extend(edges.into_iter().flatten().copied().filter(|edge| reached.insert(*edge)));
    }
    let mut seen = BTreeSet::new();
    fit.checks.retain(|check| seen.insert(check.clone()));
    Ok(fit)
}

fn unfit(program: &Program, node: usize, span: &Span, why: &str) -> Unfit {
    let rule = program.nodes.get(node).map(|node| super::program::canonical(&node.path)).unwrap_or_default();
    Unfit { place: Occurrence::at(span, &rule), why: why.to_owned() }
}

/// A rule is one thing: a function, a set, or a value.
fn kinds(program: &Program, node: usize, own: &[&Definition<'_>]) -> Result<(), Unfit> {
    let kind = |rule: &Rule| match rule {
        Rule::Default { .. } => None,
        Rule::Spec { head: RuleHead::Func { .. }, .. } => Some("function"),
        Rule::Spec { head: RuleHead::Set { .. }, .. } => Some("set"),
        Rule::Spec { head: RuleHead::Compr { .. }, .. } => Some("value"),
    };
    let mut kinds = own.iter().filter_map(|definition| kind(definition.rule).map(|kind| (kind, definition.rule)));
    let first = kinds.next().map(|(kind, _)| kind);
    match kinds.find(|(kind, _)| Some(*kind) != first) {
        Some((_, rule)) => Err(unfit(program, node, span_of(rule), "it is defined in two ways")),
        None => Ok(()),
    }
}

fn span_of(rule: &Rule) -> &Span {
    match rule {
        Rule::Default { span, .. } | Rule::Spec { span, .. } => span,
    }
}

/// The second of two definitions that may give different values for one question.
fn conflict<'d>(own: &[&'d Definition<'_>]) -> Option<&'d Span> {
    let mut values = Vec::new();
    let mut definitions = own.iter().filter_map(|definition| match definition.rule {
        Rule::Spec { head: RuleHead::Set { .. }, .. } | Rule::Default { .. } => None,
        Rule::Spec { head, bodies, span } => Some((head, bodies, span)),
    });
    let (head, bodies, _) = definitions.next()?;
    values.extend(constants(head, bodies));
    let second = definitions.next()?;
    let all_same = std::iter::once(second).chain(definitions).all(|(head, bodies, _)| {
        values.extend(constants(head, bodies));
        values.windows(2).all(|pair| matches!(pair, [Some(one), Some(other)] if one == other))
    });
    (!all_same).then_some(second.2)
}

/// The value of each body, where the request cannot change it.
fn constants(head: &RuleHead, bodies: &[RuleBody]) -> Vec<Option<Value>> {
    let written = |value: Option<&Ref<Expr>>| value.map_or(Some(Value::Bool(true)), |value| constant(value));
    if bodies.is_empty() {
        return vec![written(head_value(head))];
    }
    bodies.iter().enumerate().map(|(place, body)| written(value_of(head, body, place))).collect()
}

fn head_value(head: &RuleHead) -> Option<&Ref<Expr>> {
    match head {
        RuleHead::Compr { assign, .. } | RuleHead::Func { assign, .. } => assign.as_ref().map(|assign| &assign.value),
        RuleHead::Set { key, .. } => key.as_ref(),
    }
}

/// An `else` without a value of its own is true.
fn value_of<'r>(head: &'r RuleHead, body: &'r RuleBody, place: usize) -> Option<&'r Ref<Expr>> {
    let own = body.assign.as_ref().map(|assign| &assign.value);
    own.or_else(|| if place == 0 { head_value(head) } else { None })
}

/// Reads one definition.
struct Reader<'a, 'c> {
    program: &'a Program,
    data: &'a Value,
    names: &'a Names,
    node: usize,
    fit: &'c mut Fit,
    scopes: Vec<BTreeMap<String, Binding<'a>>>,
    /// The query read now, and how many there were. The body is 0.
    query: usize,
    queries: usize,
    /// The queries that read the input, and those that read data.
    loads: [BTreeSet<usize>; 2],
}

const INPUT: usize = 0;
const DATA: usize = 1;

impl<'a, 'c> Reader<'a, 'c> {
    fn new(program: &'a Program, data: &'a Value, definition: &'a Definition<'_>, fit: &'c mut Fit) -> Self {
        Self {
            program,
            data,
            names: &definition.names,
            node: definition.node,
            fit,
            scopes: Vec::new(),
            query: 0,
            queries: 0,
            loads: [BTreeSet::new(), BTreeSet::new()],
        }
    }

    fn refuse<T>(&self, span: &Span, why: &str) -> Result<T, Unfit> {
        Err(unfit(self.program, self.node, span, why))
    }

    fn rule(&mut self, rule: &'a Rule) -> Result<(), Unfit> {
        match rule {
            Rule::Default { refr, args, value, span, .. } => {
                if !args.is_empty() {
                    return self.refuse(span, "a function has a default");
                }
                if constant(value).is_none() {
                    return self.refuse(value.span(), "its default is no literal");
                }
                self.plain_head(refr)
            }
            Rule::Spec { head, bodies, .. } => {
                let (RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. }) = head;
                self.plain_head(refr)?;
                if let RuleHead::Set { span, key: None, .. } = head {
                    return self.refuse(span, "a set of the old style");
                }
                self.arguments(head)?;
                self.bodies(head, bodies)
            }
        }
    }

    /// `r[x] := …` makes an object of which two loops may give one key two values, and a dotted name is looked up in other ways.
    fn plain_head(&self, refr: &Expr) -> Result<(), Unfit> {
        match refr {
            Expr::Var { .. } => Ok(()),
            other => self.refuse(other.span(), "its head is more than one name"),
        }
    }

    fn arguments(&mut self, head: &'a RuleHead) -> Result<(), Unfit> {
        let mut scope = BTreeMap::new();
        if let RuleHead::Func { args, span, .. } = head {
            if args.len() > 8 {
                return self.refuse(span, "a function of more than 8 arguments; the VM would drop the others");
            }
            for argument in args {
                self.declare(&mut scope, argument, Binding::Argument)?;
            }
        }
        self.scopes = vec![scope];
        Ok(())
    }

    /// Adds a name to a scope; only a plain one that means nothing else here.
    fn declare(&self, scope: &mut BTreeMap<String, Binding<'a>>, pattern: &'a Expr, binding: Binding<'a>) -> Result<(), Unfit> {
        let Expr::Var { span, .. } = pattern else {
            return self.refuse(pattern.span(), "a pattern stands where a name would be clear");
        };
        self.declare_name(scope, span, binding)
    }

    fn declare_name(&self, scope: &mut BTreeMap<String, Binding<'a>>, span: &Span, binding: Binding<'a>) -> Result<(), Unfit> {
        let name = span.text();
        if name == "_" {
            return Ok(());
        }
        let own: Vec<String> = self.names.package.iter().cloned().chain([name.to_owned()]).collect();
        let taken = matches!(name, "input" | "data")
            || self.names.imports.contains_key(name)
            || !self.program.touched(&own).is_empty()
            || self.scopes.iter().any(|outer| outer.contains_key(name));
        if taken || scope.insert(name.to_owned(), binding).is_some() {
            return self.refuse(span, "this name already means something else");
        }
        Ok(())
    }

    fn bodies(&mut self, head: &'a RuleHead, bodies: &'a [RuleBody]) -> Result<(), Unfit> {
        let set = matches!(head, RuleHead::Set { .. });
        if bodies.is_empty() {
            return self.body(head_value(head), None, set, false);
        }
        for (place, body) in bodies.iter().enumerate() {
            if place > 0 && (set || !body.is_else) {
                return self.refuse(&body.span, "a second body without a head of its own");
            }
            self.body(value_of(head, body, place), Some(&body.query), set, place + 1 < bodies.len())?;
        }
        Ok(())
    }

    /// `followed`: an `else` comes after it.
    fn body(&mut self, value: Option<&'a Ref<Expr>>, query: Option<&'a Query>, set: bool, followed: bool) -> Result<(), Unfit> {
        self.query = 0;
        self.queries = 0;
        self.loads = [BTreeSet::new(), BTreeSet::new()];
        let loops = query.is_some_and(iterates);
        if let Some(query) = query {
            let scope = self.declared(query)?;
            self.scopes.push(scope);
            self.statements(query, loops)?;
        }
        if let Some(query) = query.filter(|_| loops && followed) {
            return self.refuse(&query.span, "a loop before an `else`; where it finds nothing the VM does not go on");
        }
        if let Some(value) = value {
            self.term(value, Allow { wildcard: false, comprehension: !loops })?;
            if loops && !set && constant(value).is_none() {
                return self.refuse(value.span(), "a loop may give it two values; the VM would take the last");
            }
            if (loops || followed) && !self.always_defined(value) {
                return self.refuse(value.span(), "its value may be undefined in a loop or before an `else`");
            }
        }
        self.scopes.truncate(1);
        for loads in &self.loads {
            if loads.len() > 1 {
                let span = query.map_or_else(|| value.map(|value| value.span()), |query| Some(&query.span));
                let why =
                    "it reads input or data both inside and outside of a comprehension or `every`; give that a rule of its own";
                return span.map_or(Ok(()), |span| self.refuse(span, why));
            }
        }
        Ok(())
    }

    fn declared(&self, query: &'a Query) -> Result<BTreeMap<String, Binding<'a>>, Unfit> {
        let mut scope = BTreeMap::new();
        for statement in &query.stmts {
            match &statement.literal {
                Literal::SomeVars { span, .. } => return self.refuse(span, "`some` without `in`"),
                Literal::SomeIn { key, value, collection, .. } => {
                    if let Some(key) = key {
                        self.declare(&mut scope, key, Binding::Key(collection))?;
                    }
                    self.declare(&mut scope, value, Binding::Element(collection))?;
                }
                Literal::Expr { expr, .. } => {
                    if let Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } = expr.as_ref() {
                        self.declare(&mut scope, lhs, Binding::Value(rhs))?;
                    }
                }
                Literal::NotExpr { .. } | Literal::Every { .. } => {}
            }
        }
        Ok(scope)
    }

    /// `looped`: some iteration runs around or in this query.
    fn statements(&mut self, query: &'a Query, looped: bool) -> Result<(), Unfit> {
        for statement in &query.stmts {
            self.statement(statement, looped)?;
        }
        Ok(())
    }

    fn statement(&mut self, statement: &'a LiteralStmt, looped: bool) -> Result<(), Unfit> {
        if let Some(with) = statement.with_mods.first() {
            return self.refuse(&with.span, "`with`");
        }
        let inside = Allow { wildcard: false, comprehension: !looped };
        match &statement.literal {
            Literal::SomeVars { span, .. } => self.refuse(span, "`some` without `in`"),
            Literal::SomeIn { collection, .. } => {
                self.term(collection, inside)?;
                self.iterable(collection)
            }
            Literal::NotExpr { expr, .. } => self.term(expr, inside),
            Literal::Every { domain, query, key, value, .. } => {
                self.term(domain, inside)?;
                if iterates(query) {
                    return self.refuse(&query.span, "a loop inside of `every`");
                }
                let mut scope = self.declared(query)?;
                if let Some(key) = key {
                    self.declare_name(&mut scope, key, Binding::Key(domain))?;
                }
                self.declare_name(&mut scope, value, Binding::Element(domain))?;
                self.inner(scope, |reader| reader.statements(query, true))
            }
            Literal::Expr { expr, .. } => match expr.as_ref() {
                Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } => {
                    self.assignment(lhs)?;
                    self.term(rhs, Allow { wildcard: true, ..inside })
                }
                _ => self.term(expr, Allow { wildcard: true, ..inside }),
            },
        }
    }

    fn assignment(&mut self, name: &Expr) -> Result<(), Unfit> {
        let Span { source, end, .. } = name.span();
        let end = usize::try_from(*end).unwrap_or(usize::MAX);
        match source.contents().get(end..).and_then(|rest| rest.find(":=")) {
            Some(after) if source.contents().get(end..end + after).is_some_and(|between| between.trim().is_empty()) => {
                self.fit.assignments.entry(source.file().clone()).or_default().insert(end + after);
                Ok(())
            }
            Some(_) | None => self.refuse(name.span(), "an assignment with something between its name and its sign"),
        }
    }

    /// Reads what stands in a query of its own.
    fn inner(
        &mut self,
        scope: BTreeMap<String, Binding<'a>>,
        read: impl FnOnce(&mut Self) -> Result<(), Unfit>,
    ) -> Result<(), Unfit> {
        let around = self.query;
        self.queries += 1;
        self.query = self.queries;
        self.scopes.push(scope);
        let outcome = read(self);
        self.scopes.pop();
        self.query = around;
        outcome
    }
}

/// True when a query may run what follows more than once.
fn iterates(query: &Query) -> bool {
    query.stmts.iter().any(|statement| match &statement.literal {
        Literal::SomeIn { .. } | Literal::SomeVars { .. } => true,
        Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => terms::has_wildcard(expr),
        Literal::Every { .. } => false,
    })
}
