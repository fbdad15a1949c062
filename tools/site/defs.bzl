"""The rule that builds the site."""

def _site_impl(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run(
        executable = ctx.executable._build,
        arguments = [".", out.path],
        inputs = ctx.files.srcs,
        outputs = [out],
        env = {"HOME": "/tmp", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        mnemonic = "Sphinx",
        progress_message = "Building the site",
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles(files = [out]))]

site = rule(
    implementation = _site_impl,
    attrs = {
        "srcs": attr.label_list(
            allow_files = True,
            doc = "Chapters, notebooks, ledger and the tests that verify equations.",
        ),
        "_build": attr.label(default = "//tools/site:build", executable = True, cfg = "exec"),
    },
    doc = "The survey post with everything around it, as a folder of HTML.",
)
