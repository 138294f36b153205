//! The rules of all bundles by their full path, with what each one reads, calls and leads to.
//!
//! In: parsed modules. Out: one [`Node`] a rule path. What must stay true: edges and reads are never fewer than what an
//! evaluation can do; a reference nobody can resolve statically (`data[x]`) leads to every rule beneath its literal prefix.
//! Preflight looks for cycles here and footprint walks it; one analysis, so that the two cannot disagree.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use regorus::unstable::{Expr, Module, Ref, Rule, RuleHead, Span};

use super::walk::{self, Use};
use super::{About, Finding, builtins, hazard};

/// Where something stands in a bundle, and in which rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Occurrence {
    pub file: String,
    pub line: u32,
    pub column: u32,
    /// `data.portcullis.decision`
    pub rule: String,
}

impl Occurrence {
    pub(super) fn at(span: &Span, rule: &str) -> Self {
        Self { file: span.source.file().clone(), line: span.line, column: span.col, rule: rule.to_owned() }
    }

    pub(super) fn finding(&self, message: String, hint: &str) -> Finding {
        let message = format!("{message} (in {})", self.rule);
        Finding {
            file: self.file.clone(),
            line: self.line,
            column: self.column,
            message,
            hint: hint.to_owned(),
            about: About::Content,
        }
    }
}

/// All definitions of one rule or function.
pub(super) struct Node {
    /// Package and name, up to the first part that is not a literal.
    pub(super) path: Vec<String>,
    /// How many arguments it takes; `None` for a rule.
    pub(super) arity: Option<usize>,
    /// A definition of it adds to a set.
    pub(super) set: bool,
    pub(super) place: Occurrence,
    pub(super) facts: Facts,
}

/// What one rule does by itself.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) reads: BTreeMap<Vec<String>, Occurrence>,
    pub(super) calls: BTreeMap<String, Occurrence>,
    pub(super) edges: BTreeSet<usize>,
    /// A call of it looks at the clock, going by its arguments.
    pub(super) clock: bool,
    /// How much of a stack its own expressions take, in frames of the interpreter.
    pub(super) frames: usize,
    pub(super) findings: Vec<Finding>,
}

/// The rules of all bundles.
pub(super) struct Program {
    pub(super) nodes: Vec<Node>,
    by_path: BTreeMap<Vec<String>, usize>,
}

/// One of the places that define a rule.
pub(super) struct Definition<'m> {
    /// Whose definition it is, as an index of [`Program::nodes`].
    pub(super) node: usize,
    pub(super) rule: &'m Rule,
    pub(super) names: Rc<Names>,
}

/// What a name at the head of a reference stands for in one module.
pub(super) struct Names {
    pub(super) package: Vec<String>,
    /// Alias → full path, its first part `input` or `data`.
    pub(super) imports: BTreeMap<String, Vec<String>>,
}

impl Names {
    pub(super) fn of(module: &Module) -> Self {
        let mut imports = BTreeMap::new();
        for import in &module.imports {
            let Some((root, steps)) = walk::reference(&import.refr) else { continue };
            let path: Vec<String> = std::iter::once(root.to_owned()).chain(walk::literal_prefix(&steps)).collect();
            let alias = import.r#as.as_ref().map(|span| span.text().to_owned()).or_else(|| path.last().cloned());
            if let Some(alias) = alias
                && matches!(root, "input" | "data")
            {
                imports.insert(alias, path);
            }
        }
        Self { package: package(module), imports }
    }

    /// Every full path a reference may mean.
    pub(super) fn meanings(&self, root: &str, steps: &[String]) -> Vec<Vec<String>> {
        let with = |base: &[String]| base.iter().chain(steps).cloned().collect::<Vec<_>>();
        let mut meanings = Vec::new();
        if matches!(root, "input" | "data") {
            meanings.push(with(&[root.to_owned()]));
        }
        if let Some(target) = self.imports.get(root) {
            meanings.push(with(target));
        }
        let own: Vec<String> =
            std::iter::once("data".to_owned()).chain(self.package.iter().cloned()).chain([root.to_owned()]).collect();
        meanings.push(with(&own));
        meanings
    }
}

/// A module's package.
pub(super) fn package(module: &Module) -> Vec<String> {
    full_path(&module.package.refr)
}

/// The literal parts of a reference such as a package's.
pub(super) fn full_path(expression: &Expr) -> Vec<String> {
    walk::reference(expression)
        .map_or_else(Vec::new, |(root, steps)| std::iter::once(root.to_owned()).chain(walk::literal_prefix(&steps)).collect())
}

/// The reference in a rule's head.
fn head(rule: &Rule) -> (&Ref<Expr>, Option<usize>) {
    match rule {
        Rule::Default { refr, args, .. } => (refr, (!args.is_empty()).then_some(args.len())),
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } => (refr, None),
            RuleHead::Func { refr, args, .. } => (refr, Some(args.len())),
        },
    }
}

impl Program {
    /// Indexes and walks modules.
    pub(super) fn new(modules: &[Ref<Module>]) -> Self {
        let mut program = Self { nodes: Vec::new(), by_path: BTreeMap::new() };
        let mut definitions = Vec::new();
        for module in modules {
            let names = Names::of(module);
            for rule in &module.policy {
                let (refr, arity) = head(rule);
                let path: Vec<String> = names.package.iter().cloned().chain(full_path(refr)).collect();
                let place = Occurrence::at(refr.span(), &canonical(&path));
                let node = program.node(path, arity, place);
                if let Some(node) = program.nodes.get_mut(node) {
                    node.set |= matches!(rule.as_ref(), Rule::Spec { head: RuleHead::Set { .. }, .. });
                }
                definitions.push((module, rule, node));
            }
        }
        // What `with` puts in the place of a function, whoever calls it.
        let mut mocks = Vec::new();
        for (module, rule, node) in definitions {
            let (facts, replaced) = program.facts(rule, &Names::of(module), node);
            mocks.extend(replaced);
            if let Some(node) = program.nodes.get_mut(node) {
                node.facts.absorb(facts);
            }
        }
        for (target, by) in mocks {
            if let Some(node) = program.nodes.get_mut(target) {
                node.facts.edges.insert(by);
            }
        }
        program
    }

    fn node(&mut self, path: Vec<String>, arity: Option<usize>, place: Occurrence) -> usize {
        let next = self.nodes.len();
        let index = *self.by_path.entry(path.clone()).or_insert(next);
        if index == next {
            self.nodes.push(Node { path, arity, set: false, place, facts: Facts::default() });
        }
        index
    }

    /// Every definition of every rule, in the order of the modules this was made from.
    pub(super) fn definitions<'m>(&self, modules: &'m [Ref<Module>]) -> Vec<Definition<'m>> {
        let mut found = Vec::new();
        for module in modules {
            let names = Rc::new(Names::of(module));
            for rule in &module.policy {
                let path: Vec<String> = names.package.iter().cloned().chain(full_path(head(rule).0)).collect();
                found.extend(self.index_of(&path).map(|node| Definition { node, rule, names: Rc::clone(&names) }));
            }
        }
        found
    }

    /// The rule at exactly this path (without `data`).
    pub(super) fn index_of(&self, path: &[String]) -> Option<usize> {
        self.by_path.get(path).copied()
    }

    /// Every rule whose value a reference to this path may touch: at it, beneath it, or above it.
    pub(super) fn touched(&self, path: &[String]) -> Vec<usize> {
        let beneath = self.by_path.range(path.to_vec()..).take_while(|(at, _)| at.starts_with(path));
        let above = (1..path.len()).filter_map(|length| path.get(..length).and_then(|prefix| self.by_path.get(prefix)));
        beneath.map(|(_, index)| *index).chain(above.copied()).collect()
    }

    /// True when a data path is nobody's rule: it holds what the bundle's files say.
    pub(super) fn is_plain_data(&self, path: &[String]) -> bool {
        self.touched(path).is_empty()
    }

    fn facts(&self, rule: &Rule, names: &Names, own: usize) -> (Facts, Vec<(usize, usize)>) {
        let rule_name = self.nodes.get(own).map(|node| canonical(&node.path)).unwrap_or_default();
        let mut facts = Facts::default();
        let mut mocks = Vec::new();
        // Names nobody declares, and whether a bracket, a call or `=` could give them a value. regorus takes the others for
        // undefined without a word, and a misspelt name in a rule that denies would allow.
        let mut unknown: BTreeMap<String, (Occurrence, bool)> = BTreeMap::new();
        let own_object_get = self.functions(names, "object", &["get".to_owned()]).next().is_some();
        let frames = walk::rule(rule, own_object_get, &mut |seen| match seen {
            Use::Reference { local: true, .. } => {}
            Use::Reference { root, steps, span, binds, local: false } => {
                let place = Occurrence::at(span, &rule_name);
                if !self.refer(&names.meanings(root, &steps), &place, &mut facts) {
                    let (_, bound) = unknown.entry(root.to_owned()).or_insert((place, false));
                    *bound |= binds;
                }
            }
            Use::Call { function, parameters, span } => {
                self.call(function, parameters, &Occurrence::at(span, &rule_name), names, &mut facts);
            }
            Use::Replaced { target, by, span } => {
                let place = Occurrence::at(span, &rule_name);
                mocks.extend(self.replaced(target, by, &place, names, &mut facts));
            }
        });
        facts.frames = frames;
        for (name, (place, bound)) in unknown {
            if !bound && !name.starts_with('_') {
                facts
                    .findings
                    .push(place.finding(format!("`{name}` is no rule, no import, and nothing here gives it a value"), ""));
            }
        }
        (facts, mocks)
    }

    /// Notes what a reference reads or leads to; false when it is nothing known.
    fn refer(&self, meanings: &[Vec<String>], place: &Occurrence, facts: &mut Facts) -> bool {
        let mut known = meanings.len() > 1;
        for meaning in meanings {
            match meaning.split_first() {
                Some((base, path)) if base == "input" => facts.read(path.to_vec(), place.clone()),
                Some((_, path)) => {
                    let touched = self.touched(path);
                    known |= !touched.is_empty();
                    facts.edges.extend(touched);
                }
                None => {}
            }
        }
        known
    }

    /// The rules a call by this name may mean, by their exact path.
    pub(super) fn functions(&self, names: &Names, root: &str, steps: &[String]) -> impl Iterator<Item = usize> {
        names.meanings(root, steps).into_iter().filter_map(|meaning| {
            meaning.split_first().filter(|(base, _)| *base == "data").and_then(|(_, path)| self.index_of(path))
        })
    }

    fn call(&self, function: &Expr, parameters: &[Ref<Expr>], place: &Occurrence, names: &Names, facts: &mut Facts) {
        let Some((root, steps)) = walk::reference(function) else {
            facts.findings.push(place.finding("this call names no function".to_owned(), ""));
            return;
        };
        let literal = walk::literal_prefix(&steps);
        let found: Vec<usize> = self.functions(names, root, &literal).collect();
        let name = full_path(function).join(".");
        if found.is_empty() {
            facts.findings.extend(hazard::of_call(&name, parameters, place, self));
            facts.clock |= builtins::reads_clock(&name, parameters);
            facts.calls.entry(name).or_insert_with(|| place.clone());
            return;
        }
        for index in found {
            let arity = self.nodes.get(index).and_then(|node| node.arity);
            match arity {
                Some(arity) if arity == parameters.len() || arity.saturating_add(1) == parameters.len() => {}
                Some(arity) => facts
                    .findings
                    .push(place.finding(format!("`{name}` takes {arity} arguments and is given {}", parameters.len()), "")),
                None => facts.findings.push(place.finding(format!("`{name}` is a rule, not a function"), "")),
            }
            facts.edges.insert(index);
        }
    }

    /// `with target as by`: whatever calls the target may now call the replacement instead.
    fn replaced(&self, target: &Expr, by: &Expr, place: &Occurrence, names: &Names, facts: &mut Facts) -> Vec<(usize, usize)> {
        let Some((root, steps)) = walk::reference(target) else { return Vec::new() };
        let literal = walk::literal_prefix(&steps);
        for builtin in [target, by].map(|side| full_path(side).join(".")).iter().filter(|name| hazard::is_builtin(name.as_str())) {
            let hint = "builtins may be replaced, or put in a function's place, only in files named _test.rego";
            facts.findings.push(place.finding(format!("`with` names the builtin `{builtin}`"), hint));
        }
        let replacements: Vec<usize> = walk::reference(by)
            .map(|(root, steps)| names.meanings(root, &walk::literal_prefix(&steps)))
            .into_iter()
            .flatten()
            .filter_map(|meaning| meaning.split_first().and_then(|(_, path)| self.index_of(path)))
            .filter(|index| self.nodes.get(*index).is_some_and(|node| node.arity.is_some()))
            .collect();
        let mut mocks = Vec::new();
        for meaning in names.meanings(root, &literal) {
            match meaning.split_first() {
                // Replacing `input.a.b` touches whatever `input.a` is; replacing `input` is counted as reading all of it.
                Some((base, path)) if base == "input" => facts.read(path.iter().take(1).cloned().collect(), place.clone()),
                Some((_, path)) => {
                    let target = self.index_of(path);
                    mocks.extend(target.into_iter().flat_map(|target| replacements.iter().map(move |by| (target, *by))));
                }
                None => {}
            }
        }
        mocks
    }
}

impl Facts {
    fn read(&mut self, path: Vec<String>, place: Occurrence) {
        self.reads.entry(path).or_insert(place);
    }

    fn absorb(&mut self, other: Self) {
        for (path, place) in other.reads {
            self.reads.entry(path).or_insert(place);
        }
        for (name, place) in other.calls {
            self.calls.entry(name).or_insert(place);
        }
        self.edges.extend(other.edges);
        self.clock |= other.clock;
        self.frames = self.frames.max(other.frames);
        self.findings.extend(other.findings);
    }
}

/// A path as Rego writes it: `data.graph["1.0.0"].deny`.
pub(super) fn canonical(path: &[String]) -> String {
    let mut written = String::from("data");
    for part in path {
        let word = part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !part.starts_with(|c: char| c.is_ascii_digit());
        if word && !part.is_empty() {
            written.push('.');
            written.push_str(part);
        } else {
            written.push('[');
            written.push_str(&serde_json::Value::from(part.as_str()).to_string());
            written.push(']');
        }
    }
    written
}
