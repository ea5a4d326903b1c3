//! A session whose rows share with each other, and with those of earlier runs.

use super::{Session, SessionError};
use crate::plan::Plan;
use crate::store::{Forks, Store, Verdicts};

impl Session {
    /// With rows that share what `plan` finds in common, and verdicts that are used again.
    ///
    /// # Errors
    /// When the cache has no place for saved machines.
    pub fn with_sharing(self, plan: Plan, forks: Forks, verdicts: Verdicts) -> Result<Self, SessionError> {
        let store = Store::open(self.cache.root(), verdicts);
        self.with_store(store, plan, forks, verdicts)
    }

    /// As [`Session::with_sharing`], for whoever only asks what a run would do: what earlier runs left stays as it is.
    ///
    /// # Errors
    /// When this program cannot be read.
    pub fn with_sharing_looked_at(
        self,
        plan: Plan,
        forks: Forks,
        verdicts: Verdicts,
    ) -> Result<Self, SessionError> {
        let store = Store::look(self.cache.root(), verdicts);
        self.with_store(store, plan, forks, verdicts)
    }

    fn with_store(
        self,
        store: Result<Store, crate::Error>,
        plan: Plan,
        forks: Forks,
        verdicts: Verdicts,
    ) -> Result<Self, SessionError> {
        let store = store.map_err(|e| SessionError::Store(Box::new(e)))?;
        let plan = if forks == Forks::Yes { plan } else { Plan::default() };
        Ok(Self { store: Some(store), plan, verdicts, forks, ..self })
    }
}
