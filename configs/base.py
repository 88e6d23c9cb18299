"""Every knob, with its default and what it does.  All other configs start from here and change what differs.

The defaults are the released Motif-Video 2B (model.md section 0) and, where nothing is published, this project's recipe.
"""

try:
  from ml_collections import ConfigDict
except ImportError:  # a bare GPU image, which runs benches and no training
  from motif_jax.config_dict import ConfigDict


def get_config() -> ConfigDict:
  c = ConfigDict()
  c.seed = 0  # initialisation, noise, times, routes, data order: all derive from it

  c.model = ConfigDict(dict(
      latent_channels=16,  # of the codec; the network reads 2 * 16 + 1 (noisy latent, first-frame latent, mask)
      width=1536,
      heads=12,
      mlp_ratio=4.0,
      depths=dict(dual=12, single=16, decoder=8),
      patch=(1, 2, 2),  # latent (frames, height, width) of one token
      text_dim=2560,
      image_dim=1152,  # 0: no image tokens
      rope_axes=(16, 56, 56),  # of the head width, to (time, height, width)
      rope_theta=10000.0,
      cross_attention=dict(kind="shared", query_norm="scale", dual=False),  # query_norm="none" for every kind but "shared"
      dtype="bfloat16",
      remat="block",  # kept for the backward pass: "none" (everything), "attention" (its outputs too), "block", "offload"
      unroll=1,  # blocks per iteration of the scan over depth; on CPU 2 made the demo 1.15 times as fast, and slower to compile
      attention="xla",  # "chunked", "cudnn", "tokamax"; launch.train also takes "auto": what launch.bench found fastest here
  ))
  c.route = ConfigDict(dict(start=2, stop=26, keep=1.0, groups=8, policy="random", last_step=0))  # keep=1.0: routing off
  c.alignment = ConfigDict(dict(
      teacher="gradients", teacher_dim=1024, tap=8, hidden=2048,
      weight=0.0,  # 0.0: alignment off
      last_step=0,  # alignment stops at this step; 0: never
  ))
  c.adapter = ConfigDict(dict(  # LoRA, see launch.finetune
      rank=0,  # 0: all weights are trained
      alpha=16.0, targets=("dual/*/attention/*", "single/attention/*", "single/cross/*", "decoder/attention/*"),
      base="", digest="",  # launch.finetune fills them in
  ))
  c.times = ConfigDict(dict(mean=0.0, std=1.0, shift=1.0))
  c.encoders = ConfigDict(dict(  # frozen: "wan_vae", "t5gemma2", "vjepa2" or "dinov2", and "siglip" have published weights
      codec="block_dct", text="word_hash", teacher="gradients", image="none",
      weights=dict(codec="", text="", teacher="", image=""),  # the folders of those that have weights
      teacher_grid="teacher",  # of features in a data set; "tokens": the model's where coarser, the same targets in fewer bytes
      log_variance=False,  # whether a data set holds that of its latents, as much again as the latents; wan_vae has one
  ))
  c.data = ConfigDict(dict(
      path="", source="array_record",
      mixture=(),  # instead of path: several data sets and their shares of the samples, (("a/folder", 3), ("another", 1))
      order="random",  # "shards": each shard is read from first record to last, for object stores; needs at most 1 worker
      window=4096,  # records of a bucket, in all processes, that "shards" holds and draws from
      # What launch.encode cuts clips to, each to the largest it fills: "33x144x256", or "33x144p" for five aspect ratios of 144p,
      # 360p, 480p or 720p, such as ("65x360p", "1x360p"); (): sample.bucket.
      buckets=(),
      batch_size=64,  # global
      batch_tokens=0,  # video tokens of a batch, global: smaller clips get more rows, in multiples of batch_size; 0: off
      pattern=(),  # which buckets the steps take, again and again, such as ("image", "video", "video"); (): all, evenly mixed
      weights=(),  # share of the steps, or planned steps, such as (("image", 1), ("33x*", 2)); (): all data equally often
      workers=4,
      caption_drop=0.1, captions=(0.5, 0.3, 0.2),  # (long, short, truncated)
      sample_latents=False,  # draw them from mean and log-variance at each step, instead of the mean
      image_to_video=0.25,
      image_tokens=False,  # of the first frame too, from encoders.image; that share of whole batches, then, instead of samples
      validation=0.02,
      lost_records=0.001,  # share that may be unreadable, each replaced by the next of its bucket; more end the run
      text_tokens=512,
  ))
  c.optimizer = ConfigDict(dict(
      kind="adamw", rate=1e-4, warmup=1000, betas=(0.9, 0.95), weight_decay=0.01, clip=1.0,
      decay="constant",  # "cosine", "linear", "sqrt": down to 0, over the last `decay_share` of the steps
      decay_share=1.0,  # 0.2: constant, then down in the last fifth ("warm-up, stable, decay")
      rates=(),  # by path, such as (("single/cross/.*", 0.1), ("time_embed/.*", 0.0)); 0.0: frozen
      undecayed=(),  # kernels without weight decay, such as (".*/modulation/kernel",)
      average="constant",  # "power": over a fixed share of the run so far, as wide as `ema_width` says
      ema=0.9999, ema_width=0.1,
  ))
  c.mesh = ConfigDict(dict(data=-1, fsdp=1, sequence=1))  # -1: all devices that the others leave
  c.train = ConfigDict(dict(
      steps=100_000,
      accumulate=1,  # microbatches per step: the memory of activations falls by as much, the result stays the same
      log_every=50, validate_every=1000, validation_batches=8, sample_every=5000, save_every=1000,
      keep=3, keep_every=0, keep_best=0,  # checkpoints that stay: the newest, those of every k-th step (0: none), the best
      best_by="validation/loss", best_is="lowest",
      verify=False,  # before going on from a checkpoint look at every byte of it, and not only at the sizes of its files
      skips_in_row=5, rollbacks=3,  # batches without a finite loss; returns to the newest checkpoint that they may cause
      stall_seconds=600.0,  # no step finished for so long: print all stacks and end, to be started again; 0: wait for ever
      judge=0,  # held-out prompts scored every `sample_every` steps, where the data are embedded ones
      benchmark="shapes",  # which: "shapes", one in a clip, or "scenes", of two things in a relation
      telemetry_every=100,  # such steps tell more of themselves (docs/telemetry.md), in a second compiled program; 0: none
  ))
  c.sample = ConfigDict(dict(
      sampler="euler", steps=50, prompts=(), fps=24,
      shift=15.0, image_shift=8.0,  # of the times towards noise: the release's from text, and from a picture
      token_shift=dict(kind="none", between=(256, 4096), mu=(0.5, 1.15)),  # "exponential" or "linear": in the place of both
      sigmas=(),  # the times themselves, such as (1.0, 0.9, 0.6): as many as steps
      cache=dict(skip=(), order=1),  # steps not computed: `launch.calibrate` finds them and their error
      guidance=dict(  # the release's (model.md section 3.5): projected, per latent frame
          rule="projected", scale=8.0,  # no guidance: scale 0 of "projected", 1 of "classifier_free"
          momentum=0.1, threshold=12.0, eta=0.0,  # of "projected" alone
          rescale=0.0, interval=(0.0, 1.0), together=True,
      ),
      bucket=dict(frames=121, height=736, width=1280),
  ))
  return c
