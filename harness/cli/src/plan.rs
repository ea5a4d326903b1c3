//! `latchkey run --plan`: what a run would do, without doing it.

use std::time::Duration;

use anyhow::Result;
use latchkey_images::{Image, Silent};
use latchkey_scenario::plan::{Plan, Remembered};
use latchkey_scenario::{AnotherVm, Forks, Keep, Scenario, Session, Store, Verdicts};

use crate::args::{Common, RunArgs};
use crate::choice::HandedIn;
use crate::jobs::{jobs, processors};
use crate::run::{forks, verdicts};
use crate::{cache, json, print};

/// Shows what a run of `rows`, whose `plan` this is, would do; with `own` as the image of all, if there is one.
pub(crate) fn show(
    common: &Common,
    args: &RunArgs,
    plan: Plan,
    rows: &[(&Scenario, &str)],
    own: Option<Image>,
    handed_in: HandedIn,
) -> Result<u8> {
    // Nothing is shared by machines that are kept.
    let (forks, remembered) = match args.keep {
        true => (Forks::No, Remembered::default()),
        false => (forks(args), remembered(common, args, plan.clone(), rows, own, handed_in)?),
    };
    let times = Store::open(cache(common)?.root(), Verdicts::Reuse)?.times();
    let jobs = jobs(args.jobs.map(usize::from));
    let told = plan.tell(forks, &remembered, jobs.min(processors()), |prefix| {
        times.get(prefix.as_str()).copied().map(Duration::from_millis)
    });
    print(&if common.json { json(&told)? } else { told.text() })
}

/// What runs before left of `rows`. Where an image is not built there is nothing, and none is built for it.
fn remembered(
    common: &Common,
    args: &RunArgs,
    plan: Plan,
    rows: &[(&Scenario, &str)],
    own: Option<Image>,
    handed_in: HandedIn,
) -> Result<Remembered> {
    let cache = cache(common)?;
    let images: Vec<(Option<&str>, Image)> = match own {
        Some(own) => vec![(None, own)],
        None => {
            let built = |name| Ok(latchkey_images::current(name, &cache)?.map(|image| (Some(name), image)));
            let built = latchkey_images::names().into_iter().map(built);
            built.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect()
        }
    };
    let mut remembered = Remembered::default();
    if images.is_empty() {
        return Ok(remembered);
    }
    let another_vm = latchkey_images::current(AnotherVm::IMAGE, &cache)?.is_some();
    let session = handed_in.into(Session::look(cache, &args.results, &Silent)?)?;
    let mut session = session.with_sharing(plan, forks(args), verdicts(args))?;
    if another_vm {
        session = session.with_another_vm(rows.iter().map(|(scenario, _)| *scenario), &Silent)?;
    }
    for (name, image) in &images {
        let context = session.context(image, Keep::No, String::new(), &Silent)?;
        for (scenario, on) in rows {
            if name.is_none_or(|name| name == *on) {
                context.remembered(scenario, &mut remembered);
            }
        }
    }
    Ok(remembered)
}
