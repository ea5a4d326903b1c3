//! `latchkey run --plan`: what a run would do, without doing it.

use std::time::Duration;

use anyhow::Result;
use latchkey_images::{Cache, Image, Pki, Silent};
use latchkey_scenario::plan::{Plan, Remembered};
use latchkey_scenario::{AnotherVm, Forks, Keep, Scenario, Session, Store, Verdicts, jobs};

use crate::args::{Common, RunArgs};
use crate::choice::HandedIn;
use crate::run::{forks, verdicts};
use crate::{UsageError, cache_as_it_is, json, print};

/// Shows what a run of `rows`, whose `plan` this is, would do; with `own` as the image of all, if there is one. That it would
/// do nothing is an error, as of the run.
pub(crate) fn show(
    common: &Common,
    args: &RunArgs,
    plan: Plan,
    rows: &[(&Scenario, &str)],
    own: Option<Image>,
    handed_in: HandedIn,
) -> Result<u8> {
    let cache = cache_as_it_is(common)?;
    let times = Store::look(cache.root(), Verdicts::Reuse)?.times();
    let images = built(&cache, own)?;
    // Nothing is known of images that are not built, nor in a cache without keys, which a session would make.
    let remembered = if images.is_empty() || !Pki::is_made(&cache) {
        Remembered::default()
    } else {
        let other_vm = latchkey_images::current(AnotherVm::IMAGE, &cache)?.is_some();
        let mut session = handed_in.into(Session::look(cache, &args.results, &Silent)?)?;
        // Nothing is shared by machines that are kept.
        if !args.keep {
            session = session.with_sharing_looked_at(plan.clone(), forks(args), verdicts(args))?;
        }
        if other_vm {
            session = session.with_another_vm(rows.iter().map(|(scenario, _)| *scenario), &Silent);
        }
        remembered(&session, rows, &images)?
    };
    let forks = if args.keep { Forks::No } else { forks(args) };
    // Steps were timed beside as many as usual: more at once are no faster, since they share the processors.
    let at_once = jobs(args.jobs.map(usize::from)).min(jobs(None));
    let told = plan.tell(forks, &remembered, at_once, |prefix| {
        times.get(prefix.as_str()).copied().map(Duration::from_millis)
    });
    print(&if common.json { json(&told)? } else { told.text() })?;
    // As of the run: one shard may have nothing to do.
    if args.shard.is_none() && told.rows > 0 && told.skipped == told.rows {
        let text = "every row would be skipped, so that nothing would be proven; why is told above";
        return Err(UsageError(text.into()).into());
    }
    Ok(0)
}

/// The images that are built, each with the name that rows have for it; `own` is that of all rows.
fn built(cache: &Cache, own: Option<Image>) -> Result<Vec<(Option<&'static str>, Image)>> {
    if let Some(own) = own {
        return Ok(vec![(None, own)]);
    }
    let built = |name| Ok(latchkey_images::current(name, cache)?.map(|image| (Some(name), image)));
    let built = latchkey_images::names().into_iter().map(built);
    Ok(built.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

/// What runs before left of `rows`.
fn remembered(
    session: &Session,
    rows: &[(&Scenario, &str)],
    images: &[(Option<&str>, Image)],
) -> Result<Remembered> {
    let mut remembered = Remembered::default();
    for (name, image) in images {
        let context = session.context(image, Keep::No, String::new(), &Silent)?;
        for (scenario, on) in rows {
            if name.is_none_or(|name| name == *on) {
                context.remembered(scenario, &mut remembered)?;
            }
        }
    }
    Ok(remembered)
}
