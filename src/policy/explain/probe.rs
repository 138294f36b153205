//! Rego text with probes: each definition tells, when it is entered, how far each prefix of its body holds and with which values.
//!
//! In: a module and its text. Out: the same text, in which each definition first calls a function of its own, and those functions.
//! A prefix is evaluated as a comprehension, `[values | first; second]`, so what is told does not depend on the order in which the
//! engine runs a body (regorus runs conditions before loops, and loops by the alphabet). Not a statement between two others,
//! which the engine would move to the front. What must stay true: nothing of the original is changed, only calls are added that
//! are always true, and a line of the original stays on its line.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use regorus::unstable::{Expr, Literal, LiteralStmt, Module, Query, Ref, Rule, RuleHead, Span};

use super::names::{self, Names};
use super::text::Text;
use super::{Kind, Point, Step, head};
use crate::policy::program::{Occurrence, Program, canonical, full_path};
use crate::policy::walk::{declared, names_in};

/// The function the probes call; no bundle of good manners has one of its name.
pub(super) const SEEN: &str = "__portcullis_seen";

/// How much a definition tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Each prefix of its body.
    Full,
    /// Only whether all of it holds.
    Whole,
    /// Nothing: the engine refused its probes.
    Nothing,
}

/// Writes the probes of one module.
struct Writer<'a> {
    program: &'a Program,
    names: &'a Names<'a>,
    text: Text<'a>,
    v0: bool,
    points: &'a mut Vec<Point>,
    /// Of the rule that is written.
    depth: Depth,
    /// Text to be inserted, by where.
    inserts: Vec<(usize, String)>,
    /// Functions to be added at the end.
    functions: String,
}

/// Writes the text of one module with probes. `depth` is asked for each rule; `points` takes what the probes are about.
pub(super) fn write(
    program: &Program,
    module: &Ref<Module>,
    text: &str,
    v0: bool,
    points: &mut Vec<Point>,
    depth: &dyn Fn(usize) -> Depth,
) -> String {
    let names = Names::of(program, module);
    let (inserts, functions) = (Vec::new(), String::new());
    let mut writer = Writer { program, names: &names, text: Text(text), v0, points, depth: Depth::Nothing, inserts, functions };
    for (number, rule) in module.policy.iter().enumerate() {
        writer.depth = depth(number);
        writer.rule(rule);
    }
    writer.finish()
}

/// Statements that are told as one.
#[derive(Default)]
struct Group<'a> {
    statements: Vec<&'a LiteralStmt>,
    /// The names that have a value after it.
    binds: BTreeSet<String>,
}

impl<'a> Writer<'a> {
    fn finish(mut self) -> String {
        let mut written = self.text.0.to_owned();
        self.inserts.sort_by_key(|(at, _)| *at);
        for (at, insert) in self.inserts.iter().rev() {
            if written.is_char_boundary(*at) {
                written.insert_str(*at, insert);
            }
        }
        written.push('\n');
        written.push_str(&self.functions);
        written
    }

    fn node(&self, refr: &Expr) -> Option<usize> {
        let path: Vec<String> = self.names.package.iter().cloned().chain(full_path(refr)).collect();
        self.program.index_of(&path)
    }

    fn is_known(&self, expression: &Expr, bound: &BTreeSet<String>) -> bool {
        let mut used = BTreeSet::new();
        names::of_expression(expression, &mut used);
        used.iter().all(|name| self.names.is_known(name, bound))
    }

    fn rule(&mut self, rule: &'a Rule) {
        let Rule::Spec { head, bodies, span } = rule else { return };
        let (RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. }) = head;
        let arguments: Vec<String> = match head {
            RuleHead::Func { args, .. } => unique(args.iter().flat_map(|pattern| names_in(pattern))),
            RuleHead::Compr { .. } | RuleHead::Set { .. } => Vec::new(),
        };
        let Some(node) = self.node(refr) else { return };
        let rule_name = self.program.nodes.get(node).map(|node| canonical(&node.path)).unwrap_or_default();
        let place = |span: &Span| Occurrence::at(span, &rule_name);
        let keys = if head::is_test(refr) { head::indexes(refr) } else { Vec::new() };
        if bodies.is_empty() {
            let at = place(refr.span());
            let point = Point::new(node, at, Kind::Rule, arguments.clone());
            let Some(call) = self.point(point, None, &head::values(head, None, 0), &[]) else { return };
            let written = if self.v0 { format!(" {{ {call} }}") } else { format!(" if {call}") };
            self.inserts.push((self.text.end(span), written));
        }
        for (number, body) in bodies.iter().enumerate() {
            let (kind, at) = if body.is_else { (Kind::Else, place(&body.span)) } else { (Kind::Rule, place(refr.span())) };
            let point = Point::new(node, at, kind, arguments.clone());
            let values = head::values(head, Some(body), number);
            let Some(call) = self.point(point, Some(&body.query), &values, &keys) else { continue };
            match body.query.stmts.first().zip(body.query.stmts.last()) {
                None => {
                    let written = if self.v0 { format!(" {{ {call} }}") } else { format!(" if {call}") };
                    self.inserts.push((self.text.end(&body.span), written));
                }
                Some((first, _)) if self.text.start(&body.query.span) < self.text.start(&first.span) => {
                    self.inserts.push((self.text.start(&first.span), format!("{call}; ")));
                }
                Some((first, last)) => {
                    self.inserts.push((self.text.start(&first.span), format!("{{ {call}; ")));
                    self.inserts.push((self.text.end(&last.span), " }".to_owned()));
                }
            }
        }
    }

    /// Adds one point with its function, and returns the call of it.
    fn point(
        &mut self,
        mut point: Point,
        query: Option<&'a Query>,
        values: &[&'a Ref<Expr>],
        keys: &[&'a Ref<Expr>],
    ) -> Option<String> {
        let id = self.points.len();
        // Its place is taken before those of what it holds.
        self.points.push(Point { told: false, ..point.clone() });
        let arguments = point.arguments.clone();
        let mut bound: BTreeSet<String> = arguments.iter().cloned().collect();
        let (mut prefixes, mut prefix, mut cases) = (Vec::new(), String::new(), Vec::new());
        for group in query.map(|query| self.groups(query)).unwrap_or_default() {
            let mut told: Vec<(String, String)> = Vec::new();
            for statement in &group.statements {
                told.extend(self.shown(statement, &bound, &point));
            }
            let Some((first, last)) = group.statements.first().zip(group.statements.last()) else { continue };
            prefixes.push(comprehension(&prefix, &told));
            cases.push(self.case(keys, &prefix, &bound));
            let text = self.text.slice(&first.span, &last.span);
            let shown = told.into_iter().map(|(name, _)| name).collect();
            point.steps.push(Step { line: first.span.line, text: text.to_owned(), shown });
            if !prefix.is_empty() {
                prefix.push_str("; ");
            }
            prefix.push_str(text);
            bound.extend(group.binds);
        }
        let values = values.iter().map(|value| self.text.whole(value));
        let values: Vec<(String, String)> = values.map(|text| (text.to_owned(), caught(text, ""))).collect();
        point.head = values.iter().map(|(name, _)| name.clone()).collect();
        prefixes.push(comprehension(&prefix, &values));
        cases.push(self.case(keys, &prefix, &bound));
        point.told = self.depth != Depth::Nothing;
        if let Some(slot) = self.points.get_mut(id) {
            *slot = point;
        }
        if self.depth == Depth::Nothing {
            return None;
        }
        let parameters = if arguments.is_empty() { "__portcullis_none".to_owned() } else { arguments.join(", ") };
        let given = if arguments.is_empty() { "0".to_owned() } else { arguments.join(", ") };
        let keyword = if self.v0 { "" } else { "if " };
        let _ = writeln!(
            self.functions,
            "__portcullis_p{id}({parameters}) {keyword}{{ {SEEN}({id}, [[{}], [{}], [{}]]) }}",
            arguments.join(", "),
            prefixes.join(", "),
            cases.join(", ")
        );
        Some(format!("__portcullis_p{id}({given})"))
    }

    /// The keys of a test's rule, for each solution of a prefix: which case it belongs to, whether or not that holds in the end.
    fn case(&self, keys: &[&'a Ref<Expr>], prefix: &str, bound: &BTreeSet<String>) -> String {
        if keys.is_empty() || !keys.iter().all(|key| self.is_known(key, bound)) {
            return "[]".to_owned();
        }
        let written = keys.iter().map(|key| (String::new(), caught(self.text.whole(key), "")));
        comprehension(prefix, &written.collect::<Vec<_>>())
    }

    /// The statements of a query, divided where what stands before binds every name it uses: elsewhere the engine would refuse it.
    fn groups(&self, query: &'a Query) -> Vec<Group<'a>> {
        let all = declared(query);
        let (mut groups, mut group) = (Vec::new(), Group::default());
        let (mut used, mut so_far) = (BTreeSet::new(), BTreeSet::new());
        for (number, statement) in query.stmts.iter().enumerate() {
            group.statements.push(statement);
            names::of_statement(statement, &mut used);
            names::declared_by(statement, &mut so_far);
            let closed = used.iter().all(|name| !all.contains(name) || so_far.contains(name));
            let only_names = matches!(statement.literal, Literal::SomeVars { .. });
            if number + 1 == query.stmts.len() || (closed && !only_names && self.depth == Depth::Full) {
                group.binds.clone_from(&so_far);
                group.binds.extend(used.iter().filter(|name| self.names.is_variable(name)).cloned());
                groups.push(std::mem::take(&mut group));
            }
        }
        groups
    }

    /// The parts of a statement whose values are shown: what they are called, and an expression that is `[]` where undefined.
    fn shown(&mut self, statement: &'a LiteralStmt, bound: &BTreeSet<String>, around: &Point) -> Vec<(String, String)> {
        let with = statement
            .with_mods
            .first()
            .map_or("", |first| self.text.0.get(self.text.start(&first.span)..self.text.end(&statement.span)).unwrap_or_default());
        let mut inside = BTreeSet::new();
        for modifier in &statement.with_mods {
            names::of_expression(&modifier.r#as, &mut inside);
        }
        if !inside.iter().all(|name| self.names.is_known(name, bound)) {
            return Vec::new();
        }
        let mut parts = Vec::new();
        let gather = |expression: &'a Ref<Expr>, parts: &mut Vec<&'a Expr>| {
            names::parts(expression, &|name| self.names.is_known(name, bound), parts)
        };
        match &statement.literal {
            Literal::SomeVars { .. } => {}
            Literal::SomeIn { key, value, collection, .. } => {
                for part in key.iter().chain([value]).filter(|part| !matches!(part.as_ref(), Expr::Var { .. })) {
                    gather(part, &mut parts);
                }
                gather(collection, &mut parts);
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => gather(expr, &mut parts),
            Literal::Every { domain, .. } => gather(domain, &mut parts),
        }
        let mut seen = BTreeSet::new();
        let mut shown: Vec<(String, String)> = parts
            .into_iter()
            .map(|part| self.text.whole(part))
            .filter(|text| !text.is_empty() && seen.insert((*text).to_owned()))
            .map(|text| (text.to_owned(), caught(text, with)))
            .collect();
        if let Literal::Every { key, value, domain, query, .. } = &statement.literal
            && with.is_empty()
            && self.depth == Depth::Full
        {
            shown.extend(self.every(key.as_ref(), value, domain, query, bound, around));
        }
        shown
    }

    /// The elements of which an `every` does not hold, by a function that has its body.
    fn every(
        &mut self,
        key: Option<&'a Span>,
        value: &'a Span,
        domain: &'a Ref<Expr>,
        query: &'a Query,
        bound: &BTreeSet<String>,
        around: &Point,
    ) -> Option<(String, String)> {
        let own: Vec<&str> = key.into_iter().chain([value]).map(Span::text).collect();
        let mut used = BTreeSet::new();
        names::of_query(query, &mut used);
        let outer = used.iter().filter(|name| bound.contains(*name) && !own.contains(&name.as_str())).cloned();
        let arguments = unique(own.iter().filter(|name| **name != "_").map(|name| (*name).to_owned()).chain(outer));
        let mut known = bound.clone();
        known.extend(arguments.iter().cloned());
        let mut of_domain = BTreeSet::new();
        names::of_expression(domain, &mut of_domain);
        if arguments.is_empty()
            || !used.union(&of_domain).all(|name| self.names.is_known(name, &known) || declared(query).contains(name))
        {
            return None;
        }
        let first = query.stmts.first()?;
        let place = Occurrence::at(&first.span, &around.place.rule);
        let inner = self.point(Point::new(around.node, place, Kind::Every, arguments.clone()), Some(query), &[], &[])?;
        let id = self.points.len();
        let body = self.text.slice(&first.span, &query.stmts.last()?.span);
        let list = arguments.join(", ");
        let keyword = if self.v0 { "" } else { "if " };
        let _ = writeln!(self.functions, "__portcullis_e{id}({list}) {keyword}{{ {inner}; {body}\n}}");
        let (domain, pattern) = (self.text.whole(domain), own.join(", "));
        let shown = own.iter().filter(|name| **name != "_").copied().collect::<Vec<_>>().join(", ");
        let failing = format!("[[{shown}] | some {pattern} in {domain}; not __portcullis_e{id}({list})]");
        Some((format!("not so for {pattern}"), caught(&failing, "")))
    }
}

/// `[[values] | prefix]`
fn comprehension(prefix: &str, values: &[(String, String)]) -> String {
    let values: Vec<&str> = values.iter().map(|(_, written)| written.as_str()).collect();
    let prefix = if prefix.is_empty() { "true" } else { prefix };
    format!("[[{}] | {prefix}\n]", values.join(", "))
}

/// `[value]`, or `[]` where it is undefined.
fn caught(expression: &str, with: &str) -> String {
    format!("[__portcullis_v | __portcullis_v := {expression}\n {with}\n]")
}

fn unique(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names.into_iter().filter(|name| name != "_" && seen.insert(name.clone())).collect()
}
