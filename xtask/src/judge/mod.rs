//! `cargo xtask judge`: the victims before stock criu, so that a test is judged before it judges us.

use anyhow::{Result, ensure};
use cryopod_testkit::{Criu, Verdict, Victim, victims};

use crate::criu;
use crate::report::{cell, print_table};
use crate::sid::{Guest, Sid};

/// What to judge.
#[derive(Debug)]
pub(crate) struct Choice {
    /// Names; empty: all that criu supports.
    pub(crate) victims: Vec<String>,
    /// Also those that criu does not support.
    pub(crate) all: bool,
    /// Keep the folders of failures.
    pub(crate) keep: bool,
}

/// The victims of these names, all when there are none.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<&'static Victim>> {
    for name in names {
        ensure!(victims().iter().any(|victim| victim.name == name), "no victim is called {name}");
    }
    Ok(victims()
        .iter()
        .filter(|victim| names.is_empty() || names.iter().any(|name| name == victim.name))
        .collect())
}

/// Prints the table; true when every victim did what its entry says.
pub(crate) fn judge(sid: &Sid, choice: &Choice) -> Result<bool> {
    let mut rows = Vec::new();
    let (mut failures, mut skipped) = (Vec::new(), 0);
    for victim in chosen(&choice.victims)? {
        let (options, reason) = match victim.criu {
            Criu::Supported(options) => (options, None),
            Criu::No(reason) => (&[][..], Some(reason)),
        };
        let tried = reason.is_none() || choice.all || !choice.victims.is_empty();
        let outcome = if tried { Some(try_one(sid, victim, options, choice.keep)) } else { None };
        let (word, note) = match (outcome, reason) {
            (None, Some(reason)) => ("not by criu", reason.to_owned()),
            (None, None) => continue,
            (Some(Ok(Verdict::Ok)), None) => ("ok", String::new()),
            (Some(Ok(Verdict::Ok)), Some(reason)) => {
                ("ok, yet marked", format!("the table says: {reason}"))
            }
            (Some(Ok(Verdict::Skip(why))), _) => {
                skipped += 1;
                ("SKIPPED", why)
            }
            (Some(Ok(Verdict::Fail(why))), Some(_)) => ("fails as marked", why),
            (Some(Err(error)), Some(_)) => ("fails as marked", format!("{error:#}")),
            (Some(Ok(Verdict::Fail(why))), None) => {
                failures.push(format!("{}: {why}", victim.name));
                ("FAILED", why)
            }
            (Some(Err(error)), None) => {
                failures.push(format!("{}: {error:#}", victim.name));
                ("FAILED", format!("{error:#}"))
            }
        };
        rows.push(vec![
            victim.name.to_owned(),
            victim.kind.to_owned(),
            word.to_owned(),
            cell(&note),
        ]);
    }
    print_table(&["victim", "kind", "criu dump, restore", "note"], &rows);
    println!("{} judged, {} failed, {skipped} skipped", rows.len(), failures.len());
    for failure in &failures {
        println!("\n{failure}");
    }
    Ok(failures.is_empty())
}

fn try_one(sid: &Sid, victim: &Victim, options: &[&str], keep: bool) -> Result<Verdict> {
    let mut guest = match Guest::start(sid, victim)? {
        Ok(guest) => guest,
        Err(verdict) => return Ok(verdict),
    };
    let steps = || {
        criu::dump(sid, &guest, options)?;
        criu::restore(sid, &guest, options)?;
        guest.finish()
    };
    let outcome = steps();
    guest.keep = keep && !matches!(outcome, Ok(Verdict::Ok | Verdict::Skip(_)));
    outcome
}
