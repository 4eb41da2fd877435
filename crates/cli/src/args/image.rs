//! `image`.

use clap::{Args, Subcommand};

/// Build, list and remove guest images
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Example: hyperfork image build python"
)]
pub(crate) struct Image {
    #[command(subcommand)]
    pub(crate) verb: ImageVerb,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    Build(ImageBuild),
    Ls(ImageLs),
    Rm(ImageRm),
}

/// Make an image: a kernel and a root file system
///
/// It is made from the distribution's packages and cached by content under
/// $XDG_CACHE_HOME/hyperfork or ~/.cache/hyperfork: a second call is instant. As
/// root, packages that are missing are installed; otherwise the command to
/// install them is told.
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork image build python")]
pub(crate) struct ImageBuild {
    /// Which image: base (busybox) or python (Python 3 with numpy)
    pub(crate) name: String,
    /// Print the image as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// List the images that are built
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork image ls --json")]
pub(crate) struct ImageLs {
    /// Print the list as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print names only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Remove images, and from the cache what no other image uses
#[derive(Debug, Args)]
#[command(after_help = "Example: hyperfork image rm base")]
pub(crate) struct ImageRm {
    /// Which images
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}
