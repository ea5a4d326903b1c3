//! Telling whoever waits how far a build is.

/// The stages of a build, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// Waiting for another run that builds the same.
    Waiting,
    /// Making the test keys.
    Keys,
    /// Asking the archive which packages there are.
    Resolve,
    /// Fetching packages.
    Download,
    /// Installing the system.
    System,
    /// Building the initrd.
    Initrd,
    /// Putting UKI, shim and certificate file together.
    Boot,
    /// Making the file systems and the disk.
    Disk,
    /// Compressing the image.
    Compress,
    /// It is there.
    Done,
}

impl Stage {
    /// One word for a progress bar.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Keys => "keys",
            Self::Resolve => "resolve",
            Self::Download => "download",
            Self::System => "system",
            Self::Initrd => "initrd",
            Self::Boot => "boot files",
            Self::Disk => "disk",
            Self::Compress => "compress",
            Self::Done => "done",
        }
    }

    /// Where on the way to the end this stage begins, from 0 to 1: from the times of a build on two cores.
    #[must_use]
    pub fn begins_at(self) -> f64 {
        match self {
            Self::Waiting | Self::Keys => 0.0,
            Self::Resolve => 0.02,
            Self::Download => 0.10,
            Self::System => 0.22,
            Self::Initrd => 0.65,
            Self::Boot => 0.84,
            Self::Disk => 0.86,
            Self::Compress => 0.92,
            Self::Done => 1.0,
        }
    }
}

/// Takes reports of a build's progress. Called from the building thread; must not block.
pub trait Progress: Sync {
    /// `stage` is at work on `message`; `fraction` of the whole build, from 0 to 1, is done.
    fn report(&self, stage: Stage, message: &str, fraction: f64);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _stage: Stage, _message: &str, _fraction: f64) {}
}

/// A stage has begun.
pub(crate) fn begin(progress: &dyn Progress, stage: Stage, message: &str) {
    tracing::info!(stage = stage.word(), "{message}");
    progress.report(stage, message, stage.begins_at());
}
