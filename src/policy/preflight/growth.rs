//! Values that hold one value more often than anything could count.
//!
//! In: the definitions of all rules. Out: a finding for each rule whose value may repeat a part of it more than a million times.
//! What must stay true: no policy of ordinary make is named; a rule that doubles an array forty times is. `x1 := [x0, x0]` costs
//! a few bytes, so neither the deadline nor a bound of memory sees forty of them; comparing the last with another, or writing it
//! out as an answer, never ends. Numbers that are multiplied by themselves grow in the same way. Loops are not counted: each turn of a loop takes time, and the deadline sees that.

use std::collections::BTreeMap;

use regorus::unstable::{ArithOp, Expr, Literal, Query, Ref, Rule, RuleHead};

use super::super::program::{Definition, Program};
use super::super::{Finding, walk};

/// So often a part may be repeated.
const OFTEN: u64 = 1 << 20;
/// So far one name may lead to another; the walk is recursive.
const FAR: usize = 100;
/// So many factors one number may have; each may have a thousand digits.
const FACTORS: u64 = 1 << 8;

/// One finding a rule.
pub(super) fn check(program: &Program, definitions: &[Definition<'_>]) -> Vec<Finding> {
    let mut own: BTreeMap<usize, Vec<&Definition<'_>>> = BTreeMap::new();
    for definition in definitions {
        own.entry(definition.node).or_default().push(definition);
    }
    let mut counter = Counter { program, own, rules: BTreeMap::new() };
    let mut findings = Vec::new();
    for node in 0..program.nodes.len() {
        if counter.rule(node, 0) > OFTEN
            && let Some(node) = program.nodes.get(node)
        {
            let message = "its value may hold one part a million times over, as often as no comparison could count".to_owned();
            findings.push(node.place.finding(message, "do not put a value into a value that holds it twice already"));
        }
    }
    findings
}

struct Counter<'a> {
    program: &'a Program,
    own: BTreeMap<usize, Vec<&'a Definition<'a>>>,
    rules: BTreeMap<usize, u64>,
}

/// The names of one definition: what each is bound to, and what came of that.
struct Locals<'a> {
    bound: BTreeMap<&'a str, Vec<&'a Expr>>,
    counted: BTreeMap<&'a str, u64>,
}

impl<'a> Counter<'a> {
    /// How often the value of a rule may repeat a part of it; each comparison in it counts like a value.
    fn rule(&mut self, node: usize, far: usize) -> u64 {
        if let Some(known) = self.rules.get(&node) {
            return *known;
        }
        // A cycle is reported by itself.
        self.rules.insert(node, 1);
        let mut most = 1;
        for definition in self.own.get(&node).cloned().unwrap_or_default() {
            most = most.max(self.definition(definition, far));
        }
        self.rules.insert(node, most);
        most
    }

    fn definition(&mut self, definition: &'a Definition<'a>, far: usize) -> u64 {
        let Rule::Spec { head, bodies, .. } = definition.rule else { return 1 };
        let mut locals = Locals { bound: BTreeMap::new(), counted: BTreeMap::new() };
        let mut values: Vec<&'a Expr> = Vec::new();
        match head {
            RuleHead::Compr { refr, assign, .. } | RuleHead::Func { refr, assign, .. } => {
                values.extend(assign.iter().map(|assign| assign.value.as_ref()));
                if let Expr::RefBrack { index, .. } = refr.as_ref() {
                    values.push(index);
                }
            }
            RuleHead::Set { key, .. } => values.extend(key.iter().map(AsRef::as_ref)),
        }
        for body in bodies {
            values.extend(body.assign.iter().map(|assign| assign.value.as_ref()));
            bindings(&body.query, &mut locals.bound, &mut values);
        }
        for value in values.clone() {
            inner(value, &mut locals.bound, &mut values);
        }
        values.into_iter().map(|value| self.term(value, definition, &mut locals, far)).max().unwrap_or(1)
    }

    fn term(&mut self, term: &'a Expr, of: &'a Definition<'a>, locals: &mut Locals<'a>, far: usize) -> u64 {
        if far > FAR {
            return u64::MAX;
        }
        match term {
            Expr::Array { items, .. } | Expr::Set { items, .. } => self.sum(items, of, locals, far),
            Expr::Object { fields, .. } => fields.iter().fold(0, |sum: u64, (_, key, value)| {
                sum.saturating_add(self.term(key, of, locals, far)).saturating_add(self.term(value, of, locals, far))
            }),
            Expr::ArrayCompr { term, .. } | Expr::SetCompr { term, .. } => self.term(term, of, locals, far),
            Expr::ObjectCompr { key, value, .. } => {
                self.term(key, of, locals, far).saturating_add(self.term(value, of, locals, far))
            }
            Expr::BinExpr { lhs, rhs, .. } => self.term(lhs, of, locals, far).saturating_add(self.term(rhs, of, locals, far)),
            // `x * x` has twice the digits of `x`.
            Expr::ArithExpr { op: ArithOp::Mul, lhs, rhs, .. } => {
                let factors = self.term(lhs, of, locals, far).saturating_add(self.term(rhs, of, locals, far));
                if factors > FACTORS { u64::MAX } else { factors }
            }
            Expr::ArithExpr { lhs, rhs, .. } => self.term(lhs, of, locals, far).max(self.term(rhs, of, locals, far)),
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(term, of, locals, far),
            Expr::Call { fcn, params, .. } => {
                let given = self.sum(params, of, locals, far);
                let own = walk::reference(fcn).map_or(1, |(root, steps)| {
                    let steps = walk::literal_prefix(&steps);
                    let called: Vec<usize> = self.program.functions(&of.names, root, &steps).collect();
                    called.into_iter().map(|node| self.rule(node, far.saturating_add(1))).max().unwrap_or(1)
                });
                given.max(1).saturating_mul(own)
            }
            _ => 1,
        }
    }

    fn sum(&mut self, terms: &'a [Ref<Expr>], of: &'a Definition<'a>, locals: &mut Locals<'a>, far: usize) -> u64 {
        terms.iter().fold(0, |sum: u64, term| sum.saturating_add(self.term(term, of, locals, far)))
    }

    fn reference(&mut self, term: &'a Expr, of: &'a Definition<'a>, locals: &mut Locals<'a>, far: usize) -> u64 {
        let Some((root, steps)) = walk::reference(term) else {
            // What is picked from a value is no more than the value.
            return match term {
                Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => self.term(refr, of, locals, far),
                _ => 1,
            };
        };
        let far = far.saturating_add(1);
        if let Some(bound) = locals.bound.get(root).cloned() {
            if let Some(known) = locals.counted.get(root) {
                return *known;
            }
            locals.counted.insert(root, 1);
            let most = bound.into_iter().map(|value| self.term(value, of, locals, far)).max().unwrap_or(1);
            locals.counted.insert(root, most);
            return most;
        }
        let steps = walk::literal_prefix(&steps);
        let mut most = 1;
        for meaning in of.names.meanings(root, &steps) {
            if let Some((base, path)) = meaning.split_first()
                && base == "data"
            {
                let touched = self.program.touched(path);
                most = touched.into_iter().map(|node| self.rule(node, far)).fold(most, u64::max);
            }
        }
        most
    }
}

/// What a query binds, and what it compares.
fn bindings<'a>(query: &'a Query, bound: &mut BTreeMap<&'a str, Vec<&'a Expr>>, values: &mut Vec<&'a Expr>) {
    for statement in &query.stmts {
        match &statement.literal {
            Literal::SomeVars { .. } => {}
            Literal::SomeIn { key, value, collection, .. } => {
                for pattern in key.iter().chain([value]) {
                    bind(pattern, collection, bound);
                }
                inner(collection, bound, values);
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => inner(expr, bound, values),
            Literal::Every { key, value, domain, query, .. } => {
                for span in key.iter().chain([value]) {
                    bound.entry(span.text()).or_default().push(domain);
                }
                inner(domain, bound, values);
                bindings(query, bound, values);
            }
        }
    }
}

fn bind<'a>(pattern: &'a Expr, to: &'a Expr, bound: &mut BTreeMap<&'a str, Vec<&'a Expr>>) {
    match (pattern, to) {
        (Expr::Var { span, .. }, to) => bound.entry(span.text()).or_default().push(to),
        (Expr::Array { items, .. }, Expr::Array { items: others, .. }) if items.len() == others.len() => {
            items.iter().zip(others).for_each(|(pattern, to)| bind(pattern, to, bound));
        }
        (Expr::Array { items, .. }, to) => items.iter().for_each(|pattern| bind(pattern, to, bound)),
        (Expr::Object { fields, .. }, to) => fields.iter().for_each(|(_, _, pattern)| bind(pattern, to, bound)),
        _ => {}
    }
}

fn inner<'a>(term: &'a Expr, bound: &mut BTreeMap<&'a str, Vec<&'a Expr>>, values: &mut Vec<&'a Expr>) {
    match term {
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().for_each(|item| inner(item, bound, values)),
        Expr::Object { fields, .. } => {
            for (_, key, value) in fields {
                inner(key, bound, values);
                inner(value, bound, values);
            }
        }
        Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
            bindings(query, bound, values);
            inner(term, bound, values);
        }
        Expr::ObjectCompr { key, value, query, .. } => {
            bindings(query, bound, values);
            inner(key, bound, values);
            inner(value, bound, values);
        }
        Expr::Call { params, .. } => {
            values.push(term);
            params.iter().for_each(|parameter| inner(parameter, bound, values));
        }
        Expr::UnaryExpr { expr, .. } => inner(expr, bound, values),
        Expr::RefDot { refr, .. } => inner(refr, bound, values),
        Expr::RefBrack { refr, index, .. } => {
            inner(refr, bound, values);
            inner(index, bound, values);
        }
        Expr::AssignExpr { lhs, rhs, .. } => {
            bind(lhs, rhs, bound);
            bind(rhs, lhs, bound);
            inner(lhs, bound, values);
            inner(rhs, bound, values);
        }
        Expr::BinExpr { lhs, rhs, .. } | Expr::BoolExpr { lhs, rhs, .. } | Expr::ArithExpr { lhs, rhs, .. } => {
            values.extend([lhs.as_ref(), rhs.as_ref()]);
            inner(lhs, bound, values);
            inner(rhs, bound, values);
        }
        Expr::Membership { value, collection, .. } => {
            values.extend([value.as_ref(), collection.as_ref()]);
            inner(value, bound, values);
            inner(collection, bound, values);
        }
        _ => {}
    }
}
