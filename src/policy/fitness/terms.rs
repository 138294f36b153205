//! The terms of a rule: which mean the same in both engines.
//!
//! In: one expression and what may stand in it here. Out: nothing, or where it must not be the VM's. A reference is followed to
//! the input, to plain data, or to exactly one rule; what reaches several rules at once is evaluated in different ways.

use std::collections::BTreeSet;

use regorus::Value;
use regorus::unstable::{ArithOp, Expr, Query, Ref, Span};

use super::super::walk::{self, Step};
use super::super::{builtins, hazard};
use super::{DATA, INPUT, Reader, Unfit, iterates};

/// What may stand in a term.
#[derive(Clone, Copy)]
pub(super) struct Allow {
    /// `[_]`, which iterates.
    pub(super) wildcard: bool,
    /// Inside a loop a failed condition of a comprehension would end the loop's turn.
    pub(super) comprehension: bool,
}

/// Builtins that iterate, or say something on the side.
const ODD: &[&str] = &["walk", "print", "trace"];

impl<'a> Reader<'a, '_> {
    pub(super) fn term(&mut self, term: &'a Expr, allow: Allow) -> Result<(), Unfit> {
        match term {
            Expr::String { .. } | Expr::RawString { .. } | Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. } => Ok(()),
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(term, allow),
            Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().try_for_each(|item| self.term(item, allow)),
            Expr::Object { fields, .. } => self.object(fields, allow),
            Expr::ArrayCompr { span, term, query, .. } => {
                self.comprehension(span, term, query, allow)?;
                Ok(())
            }
            Expr::SetCompr { span, term, query, .. } => self.comprehension(span, term, query, allow),
            Expr::ObjectCompr { span, .. } => {
                self.refuse(span, "an object comprehension; one key with two values fails only in the interpreter")
            }
            Expr::Call { span, fcn, params, .. } => self.call(span, fcn, params, allow),
            Expr::UnaryExpr { span, expr, .. } => match expr.as_ref() {
                Expr::Number { .. } => Ok(()),
                _ => self.refuse(span, "the negative of something that is no literal"),
            },
            Expr::BoolExpr { lhs, rhs, .. } => {
                self.term(lhs, allow)?;
                self.term(rhs, allow)
            }
            Expr::ArithExpr { span, op, lhs, rhs, .. } => {
                if !matches!(op, ArithOp::Add | ArithOp::Sub | ArithOp::Mul) {
                    return self.refuse(span, "a division");
                }
                for side in [lhs, rhs] {
                    self.term(side, allow)?;
                    self.number(side)?;
                }
                Ok(())
            }
            Expr::Membership { span, key, value, collection, .. } => {
                if key.is_some() {
                    return self.refuse(span, "`in` with a key");
                }
                self.term(value, allow)?;
                self.term(collection, allow)
            }
            Expr::BinExpr { span, .. } => self.refuse(span, "a union or an intersection fails on what is no set"),
            Expr::AssignExpr { span, .. } => self.refuse(span, "`=`, or an assignment inside of a term"),
        }
    }

    fn object(&mut self, fields: &'a [(Span, Ref<Expr>, Ref<Expr>)], allow: Allow) -> Result<(), Unfit> {
        let mut keys = BTreeSet::new();
        for (_, key, value) in fields {
            if !walk::text(key).is_some_and(|key| keys.insert(key)) {
                return self.refuse(key.span(), "a key that is no text, or stands there twice");
            }
            self.term(value, allow)?;
        }
        Ok(())
    }

    fn comprehension(&mut self, span: &Span, term: &'a Expr, query: &'a Query, allow: Allow) -> Result<(), Unfit> {
        if !allow.comprehension {
            return self.refuse(span, "a comprehension inside of a loop; give it a rule of its own");
        }
        let loops = iterates(query);
        let scope = self.declared(query)?;
        self.inner(scope, |reader| {
            reader.statements(query, loops)?;
            reader.term(term, Allow { wildcard: false, comprehension: !loops })?;
            if reader.always_defined(term) {
                Ok(())
            } else {
                reader.refuse(term.span(), "the term of a comprehension may be undefined; give it a name with `:=` first")
            }
        })
    }

    fn call(&mut self, span: &Span, function: &'a Expr, parameters: &'a [Ref<Expr>], allow: Allow) -> Result<(), Unfit> {
        let Some((root, steps)) = walk::reference(function) else { return self.refuse(span, "a call of no name") };
        let steps = walk::literal_prefix(&steps);
        if parameters.len() > 8 {
            return self.refuse(span, "a call with more than 8 arguments; the VM would drop the others");
        }
        let found: Vec<usize> = self.program.functions(self.names, root, &steps).collect();
        let arity = match found.as_slice() {
            [] => {
                let name = super::super::program::full_path(function).join(".");
                if ODD.contains(&name.as_str()) {
                    return self.refuse(span, "a builtin the two engines run in different ways");
                }
                hazard::arity(&name)
            }
            // The VM's compiler looks at the name as it stands before it looks at rules and imports.
            [_] if builtins::find(&super::super::program::full_path(function).join(".")).is_some() => {
                return self.refuse(span, "this name may mean a function and a builtin");
            }
            [one] => self.program.nodes.get(*one).and_then(|node| node.arity),
            _ => return self.refuse(span, "this name may mean two functions"),
        };
        if arity != Some(parameters.len()) {
            return self.refuse(span, "an argument for the result");
        }
        parameters.iter().try_for_each(|parameter| self.term(parameter, allow))
    }

    fn reference(&mut self, term: &'a Expr, allow: Allow) -> Result<(), Unfit> {
        let Some((root, steps)) = walk::reference(term) else {
            return self.refuse(term.span(), "a part picked from an expression; give the expression a name first");
        };
        for step in &steps {
            let Step::Dynamic(index) = step else { continue };
            if is_wildcard(index) {
                if !allow.wildcard {
                    return self.refuse(index.span(), "`[_]` iterates here");
                }
            } else {
                self.term(index, Allow { wildcard: false, ..allow })?;
            }
        }
        if self.binding(root).is_some() {
            return Ok(());
        }
        match root {
            "input" => {
                self.loads(INPUT);
                Ok(())
            }
            "data" => self.data(term.span(), &[], &steps),
            _ => self.named(term.span(), root, &steps),
        }
    }

    fn loads(&mut self, what: usize) {
        if let Some(queries) = self.loads.get_mut(what) {
            queries.insert(self.query);
        }
    }

    /// A rule of this package, or an import.
    fn named(&mut self, span: &Span, root: &str, steps: &[Step<'a>]) -> Result<(), Unfit> {
        let own: Vec<String> = self.names.package.iter().cloned().chain([root.to_owned()]).collect();
        if !self.program.touched(&own).is_empty() {
            let prefix: Vec<String> = own.iter().cloned().chain(walk::literal_prefix(steps)).collect();
            return if self.names.imports.contains_key(root) || !self.is_one_rule(&prefix, own.len()) {
                self.refuse(span, "this name may mean more than one rule")
            } else {
                Ok(())
            };
        }
        match self.names.imports.get(root).cloned() {
            Some(target) => match target.split_first() {
                Some((base, _)) if base == "input" => {
                    self.loads(INPUT);
                    Ok(())
                }
                // The VM looks an import up by its own path first, whatever follows.
                Some((_, path)) => {
                    self.data(span, path, &[])?;
                    self.data(span, path, steps)
                }
                None => self.refuse(span, "an import of nothing"),
            },
            None => self.refuse(span, "nothing here gives this name a value"),
        }
    }

    fn data(&mut self, span: &Span, alias: &[String], steps: &[Step<'a>]) -> Result<(), Unfit> {
        let path: Vec<String> = alias.iter().cloned().chain(walk::literal_prefix(steps)).collect();
        if path.is_empty() {
            return self.refuse(span, "it reads all of data");
        }
        if self.program.touched(&path).is_empty() {
            self.loads(DATA);
        } else if !self.is_one_rule(&path, 1) {
            return self.refuse(span, "it reaches a package or several rules at once");
        }
        for step in steps {
            if let Step::Dynamic(index) = step
                && !is_wildcard(index)
            {
                self.no_number(index)?;
            }
        }
        Ok(())
    }

    /// True when a path leads to one rule, which is no function, and its name is at least so long.
    fn is_one_rule(&self, path: &[String], least: usize) -> bool {
        match self.program.touched(path).as_slice() {
            [one] => self
                .program
                .nodes
                .get(*one)
                .is_some_and(|node| node.arity.is_none() && node.path.len() >= least && path.starts_with(&node.path)),
            _ => false,
        }
    }

    /// True for terms that have a value wherever they are reached.
    pub(super) fn always_defined(&self, term: &'a Expr) -> bool {
        match term {
            Expr::Var { span, .. } => self.binding(span.text()).is_some(),
            Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().all(|item| self.always_defined(item)),
            Expr::Object { fields, .. } => fields.iter().all(|(_, _, value)| self.always_defined(value)),
            Expr::ArrayCompr { .. } | Expr::SetCompr { .. } => true,
            Expr::RefDot { .. } => self.stands_in_data(term),
            other => constant(other).is_some(),
        }
    }
}

/// The value of a term made of literals only.
pub(in crate::policy) fn constant(term: &Expr) -> Option<Value> {
    match term {
        Expr::String { value, .. }
        | Expr::RawString { value, .. }
        | Expr::Number { value, .. }
        | Expr::Bool { value, .. }
        | Expr::Null { value, .. } => Some(value.clone()),
        Expr::Array { items, .. } => items.iter().map(|item| constant(item)).collect::<Option<Vec<_>>>().map(Value::from),
        Expr::Set { items, .. } => items.iter().map(|item| constant(item)).collect::<Option<BTreeSet<_>>>().map(Value::from),
        Expr::Object { fields, .. } => fields
            .iter()
            .map(|(_, key, value)| Some((constant(key)?, constant(value)?)))
            .collect::<Option<std::collections::BTreeMap<_, _>>>()
            .map(Value::from),
        _ => None,
    }
}

fn is_wildcard(index: &Expr) -> bool {
    matches!(index, Expr::Var { span, .. } if span.text() == "_")
}

/// True when a term iterates outside of its own comprehensions.
pub(super) fn has_wildcard(term: &Expr) -> bool {
    match term {
        Expr::RefBrack { refr, index, .. } => is_wildcard(index) || has_wildcard(index) || has_wildcard(refr),
        Expr::RefDot { refr, .. } => has_wildcard(refr),
        Expr::UnaryExpr { expr, .. } => has_wildcard(expr),
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. }
        | Expr::AssignExpr { lhs, rhs, .. } => has_wildcard(lhs) || has_wildcard(rhs),
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().any(|item| has_wildcard(item)),
        Expr::Object { fields, .. } => fields.iter().any(|(_, key, value)| has_wildcard(key) || has_wildcard(value)),
        Expr::Call { params, .. } => params.iter().any(|parameter| has_wildcard(parameter)),
        Expr::Membership { value, collection, .. } => has_wildcard(value) || has_wildcard(collection),
        _ => false,
    }
}
