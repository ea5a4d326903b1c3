//! The one thread that starts children.
//!
//! `PR_SET_PDEATHSIG` fires when the *thread* that forked the child ends, not when its process does, so all
//! children are forked by a thread that ends only with the process.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock};

struct Request {
    expression: duct::Expression,
    answer: Sender<io::Result<duct::Handle>>,
}

static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();

fn spawner() -> &'static Mutex<Sender<Request>> {
    SPAWNER.get_or_init(|| {
        let (requests, inbox) = mpsc::channel::<Request>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for request in inbox {
                    // The asker may be gone; then the handle is dropped and the child reaped by nobody, so
                    // kill it here.
                    if let Err(unsent) = request.answer.send(request.expression.start())
                        && let Ok(handle) = unsent.0
                    {
                        let _ = handle.kill();
                    }
                }
            })
            .map_or_else(|_| Mutex::new(mpsc::channel().0), |_| Mutex::new(requests))
    })
}

/// Starts `expression` from the spawner thread.
pub(crate) fn start(expression: duct::Expression) -> io::Result<duct::Handle> {
    let gone = || io::Error::other("the spawner thread is gone");
    let (answer, reply) = mpsc::channel();
    let sender = match spawner().lock() {
        Ok(guard) => guard.clone(),
        Err(poisoned) => poisoned.into_inner().clone(),
    };
    sender.send(Request { expression, answer }).map_err(|_| gone())?;
    reply.recv().map_err(|_| gone())?
}
