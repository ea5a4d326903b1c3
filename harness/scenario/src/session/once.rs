//! What a run finds out once, and holds to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is found out once for each name. Who asks while somebody finds it out waits for the answer; what failed is tried again.
#[derive(Debug)]
pub(super) struct Once<T>(Mutex<BTreeMap<String, Arc<Mutex<Option<T>>>>>);

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Once<T> {
    /// What is known of `name`, or else what `find` finds.
    pub(super) fn get<E>(&self, name: &str, find: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let one = held(&self.0).entry(name.to_owned()).or_default().clone();
        let mut known = held(&one);
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let found = find()?;
        Ok(known.insert(found).clone())
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_stays_and_a_failure_does_not() {
        let once = Once::default();
        assert_eq!(once.get("a", || Err("not yet")), Err("not yet"));
        assert_eq!(once.get("a", || Ok::<_, &str>(1)), Ok(1));
        assert_eq!(once.get("a", || Ok::<_, &str>(2)), Ok(1));
        assert_eq!(once.get("b", || Ok::<_, &str>(3)), Ok(3));
    }

    #[test]
    fn those_who_ask_at_once_have_one_answer() {
        let once = Once::default();
        let asked = Mutex::new(0);
        let find = || {
            *held(&asked) += 1;
            Ok::<_, ()>(*held(&asked))
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(once.get("a", find), Ok(1)));
            }
        });
        assert_eq!(*held(&asked), 1);
    }
}
