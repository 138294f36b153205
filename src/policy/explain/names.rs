//! The names an expression uses, and the parts of it whose values are worth telling.
//!
//! In: expressions, statements. Out: names that stand for something outside of them, and sub-expressions that have a value by
//! themselves where the names bound so far are known. Names a comprehension declares for itself are its own.

use std::collections::BTreeSet;

use regorus::unstable::{AssignOp, Expr, Literal, LiteralStmt, Module, Query, Ref};

use crate::policy::program::{self, Program};
use crate::policy::walk::{declared, names_in};

/// What a name may stand for in one module.
pub(super) struct Names<'a> {
    program: &'a Program,
    of: program::Names,
    pub(super) package: Vec<String>,
}

impl<'a> Names<'a> {
    pub(super) fn of(program: &'a Program, module: &Module) -> Self {
        let of = program::Names::of(module);
        Self { program, package: of.package.clone(), of }
    }

    /// True for a rule, an import and the two roots.
    fn is_global(&self, name: &str) -> bool {
        let own: Vec<String> = self.package.iter().cloned().chain([name.to_owned()]).collect();
        matches!(name, "input" | "data") || self.of.imports.contains_key(name) || !self.program.touched(&own).is_empty()
    }

    /// True for a name that only a statement can give a value.
    pub(super) fn is_variable(&self, name: &str) -> bool {
        name != "_" && !self.is_global(name)
    }

    /// True for a name that has a value where these are bound.
    pub(super) fn is_known(&self, name: &str, bound: &BTreeSet<String>) -> bool {
        name != "_" && (bound.contains(name) || self.is_global(name))
    }
}

/// The names a statement declares.
pub(super) fn declared_by(statement: &LiteralStmt, names: &mut BTreeSet<String>) {
    match &statement.literal {
        Literal::SomeVars { vars, .. } => names.extend(vars.iter().map(|span| span.text().to_owned())),
        Literal::SomeIn { key, value, .. } => names.extend(key.iter().chain([value]).flat_map(|pattern| names_in(pattern))),
        Literal::Expr { expr, .. } => {
            if let Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } = expr.as_ref() {
                names.extend(names_in(lhs));
            }
        }
        Literal::NotExpr { .. } | Literal::Every { .. } => {}
    }
}

/// The names a statement uses that are not its own.
pub(super) fn of_statement(statement: &LiteralStmt, names: &mut BTreeSet<String>) {
    match &statement.literal {
        Literal::SomeVars { .. } => {}
        Literal::SomeIn { key, value, collection, .. } => {
            key.iter().chain([value, collection]).for_each(|part| of_expression(part, names));
        }
        Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => of_expression(expr, names),
        Literal::Every { key, value, domain, query, .. } => {
            of_expression(domain, names);
            let mut inside = BTreeSet::new();
            of_query(query, &mut inside);
            let own: Vec<&str> = key.iter().chain([value]).map(|span| span.text()).collect();
            names.extend(inside.into_iter().filter(|name| !own.contains(&name.as_str())));
        }
    }
    for modifier in &statement.with_mods {
        of_expression(&modifier.r#as, names);
    }
}

/// The names a query uses and does not declare.
pub(super) fn of_query(query: &Query, names: &mut BTreeSet<String>) {
    let mut inside = BTreeSet::new();
    query.stmts.iter().for_each(|statement| of_statement(statement, &mut inside));
    let own = declared(query);
    names.extend(inside.into_iter().filter(|name| !own.contains(name)));
}

/// The names an expression uses, without those of functions.
pub(super) fn of_expression(expression: &Expr, names: &mut BTreeSet<String>) {
    let mut each = |parts: &[&Ref<Expr>]| parts.iter().for_each(|part| of_expression(part, names));
    match expression {
        Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. } => {}
        Expr::Var { span, .. } => drop(names.insert(span.text().to_owned())),
        Expr::RefDot { refr, .. } => each(&[refr]),
        Expr::RefBrack { refr, index, .. } => each(&[refr, index]),
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().for_each(|item| of_expression(item, names)),
        Expr::Object { fields, .. } => fields.iter().for_each(|(_, key, value)| {
            of_expression(key, names);
            of_expression(value, names);
        }),
        Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => comprehension(&[term], query, names),
        Expr::ObjectCompr { key, value, query, .. } => comprehension(&[key, value], query, names),
        Expr::Call { params, .. } => params.iter().for_each(|part| of_expression(part, names)),
        Expr::UnaryExpr { expr, .. } => each(&[expr]),
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. }
        | Expr::AssignExpr { lhs, rhs, .. } => each(&[lhs, rhs]),
        Expr::Membership { key, value, collection, .. } => {
            key.iter().chain([value, collection]).for_each(|part| of_expression(part, names));
        }
    }
}

fn comprehension(terms: &[&Ref<Expr>], query: &Query, names: &mut BTreeSet<String>) {
    let mut inside = BTreeSet::new();
    terms.iter().for_each(|term| of_expression(term, &mut inside));
    query.stmts.iter().for_each(|statement| of_statement(statement, &mut inside));
    let own = declared(query);
    names.extend(inside.into_iter().filter(|name| !own.contains(name)));
}

/// The references, calls and comprehensions of an expression that have a value by themselves.
pub(super) fn parts<'a>(expression: &'a Expr, known: &dyn Fn(&str) -> bool, found: &mut Vec<&'a Expr>) {
    let whole = |expression: &Expr| {
        let mut names = BTreeSet::new();
        of_expression(expression, &mut names);
        names.iter().all(|name| known(name))
    };
    match expression {
        Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. } => {}
        Expr::Var { span, .. } => {
            if known(span.text()) && !matches!(span.text(), "input" | "data") {
                found.push(expression);
            }
        }
        Expr::RefDot { refr, .. } => {
            if whole(expression) {
                found.push(expression);
                brackets(expression, known, found);
            } else {
                parts(refr, known, found);
            }
        }
        Expr::RefBrack { refr, index, .. } => {
            if whole(expression) {
                found.push(expression);
                brackets(expression, known, found);
            } else {
                parts(refr, known, found);
                parts(index, known, found);
            }
        }
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().for_each(|item| parts(item, known, found)),
        Expr::Object { fields, .. } => fields.iter().for_each(|(_, key, value)| {
            parts(key, known, found);
            parts(value, known, found);
        }),
        Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. } => {
            if whole(expression) {
                found.push(expression);
            }
        }
        Expr::Call { params, .. } => {
            if whole(expression) {
                found.push(expression);
            }
            params.iter().for_each(|part| parts(part, known, found));
        }
        Expr::UnaryExpr { expr, .. } => parts(expr, known, found),
        Expr::AssignExpr { op: AssignOp::ColEq, rhs, .. } => parts(rhs, known, found),
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. }
        | Expr::AssignExpr { lhs, rhs, .. } => {
            parts(lhs, known, found);
            parts(rhs, known, found);
        }
        Expr::Membership { key, value, collection, .. } => {
            key.iter().chain([value, collection]).for_each(|part| parts(part, known, found));
        }
    }
}

/// What stands in the brackets of a reference.
fn brackets<'a>(expression: &'a Expr, known: &dyn Fn(&str) -> bool, found: &mut Vec<&'a Expr>) {
    match expression {
        Expr::RefDot { refr, .. } => brackets(refr, known, found),
        Expr::RefBrack { refr, index, .. } => {
            brackets(refr, known, found);
            parts(index, known, found);
        }
        _ => {}
    }
}
