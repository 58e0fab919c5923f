"""The sections of the report of one experiment.

The report is a notebook that Snakemake runs with its parameters; its cells call one method of `Report` for each
section. A method gathers what the section says from the files of the experiment, and a template of the same name in
``templates/report/`` words it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from stainfree import attempts, costs, evaluation, files, layout
from stainfree.evaluation import TRIVIAL
from stainfree.footnotes import Notes
from stainfree.headline import Pair, balanced_accuracy, best_pair, is_stained, pick, read_metrics, trivial_row
from stainfree.metrics import in_words
from stainfree.pages import Html, count, data_uri, interactive_pages, is_missing, render, words
from stainfree.schemes import STAGES

SUBSETS = ("train", "validation", "test")
FEW_CELLS = 30
CHAIN = ("download", "convert", "split", "tune", "train", "evaluate")
# Rules whose jobs are named after a training.
TRAINING = {"tune", "train", "train_part", "join_parts"}
BADGES = {"holds": "holds", "does not hold": "fails"}
# Values that go without saying in a recipe: nothing is switched on, or it is as everywhere.
UNTOLD: tuple[object, ...] = (None, False, 0, "none", [])
USUAL = {"schedule": "constant", "decay": 0.1, "validate": "epoch", "monitor": "balanced_accuracy", "views": 1}
# Table or figure -> its caption where no study gives one.
CAPTIONS = {
    "over_seeds": "Means over drawings of the split that differ by their seed alone, of the scores on all cells, each "
    "of which is a test cell once in each drawing. The interval is the mean of the drawings' intervals: they share "
    "their cells, so that three of them say hardly more about other cells than one.",
    "examples": "Example cells of each stage, in each channel.",
    "architecture": "Architecture of the models, drawn from the trained models themselves.",
    "curves": "Loss and balanced accuracy on training and validation cells.",
    "confusion_train": "What the training cells of each class were taken for.",
    "confusion_test": "What the test cells of each class were taken for.",
    "confusion_test_all": "What the test cells of each class were taken for, by every model under every loss.",
    "class_counts": "Cells per stage.",
    "saliency": "Where the models look in test cells that the judging model got right, or wrong",
    "embedding": "Three-dimensional UMAP of the embeddings of test cells",
    "bars": "Scores on the test cells with their 95 % intervals",
    "parameters": "Scores against the number of parameters.",
}


def _mapping(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter that came as JSON text, or as a mapping, as a mapping."""
    return dict(json.loads(value or "{}") if isinstance(value, str) else value)


@dataclass(frozen=True)
class Report:
    """What one experiment has to tell; every public method returns one section as HTML.

    Parameters
    ----------
    dataset, experiment
        Names, as in config.
    results
        The folder `results/`.
    data_report
        JSON of the conversion; empty where there is none.
    study
        YAML of what the study says; empty where the experiment rebuilds none.
    logs
        Folder of logs and benchmark files.
    provenance, config
        Mappings to show, or JSON text of such.
    main
        The variant that stands first and whose figures are drawn; the first of the metrics where empty.
    files
        Names of the files below the experiment's folder that the run made, or JSON text of such: others there are
        leftovers of other settings and are not shown. Empty: all that is there.
    """

    dataset: str
    experiment: str
    results: str | os.PathLike[str] = "results"
    data_report: str | os.PathLike[str] = ""
    study: str | os.PathLike[str] = ""
    logs: str | os.PathLike[str] = "logs"
    provenance: str | Mapping[str, Any] = field(default_factory=dict)
    config: str | Mapping[str, Any] = field(default_factory=dict)
    files: str | Sequence[str] = ()
    main: str = ""
    _splits: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def _made(self, name: str) -> bool:
        """Tell whether the run made the file `name` below the experiment's folder."""
        told = json.loads(self.files) if isinstance(self.files, str) and self.files else self.files
        return not told or name in told

    # --- what the sections draw on

    @property
    def folder(self) -> Path:
        """Folder of the experiment's results."""
        return Path(self.results) / self.dataset / self.experiment

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Headline rows of the metrics."""
        return read_metrics(self.folder / "metrics.csv")

    @cached_property
    def n_folds(self) -> dict[tuple[str, str, str], int]:
        """(variant, model, loss) -> the folds that it was scored on."""
        return evaluation.count_folds(evaluation.read_metrics(self.folder / "metrics.csv"))

    def _fewer_folds(self, variant: str, model: str, loss: str) -> str:
        """Say ``1 of 5 folds`` where a model ran on fewer folds than its split has."""
        split = self._split(variant)
        return layout.folds(self.n_folds.get((variant, model, loss)), split["fold"].nunique() if len(split) else None)

    def _notes(self, table: str) -> Notes:
        """Return the footnotes of one of the study's tables."""
        return Notes(self.told.get("footnotes", {}), self._about(table).get("footnotes", ()))

    def _about(self, table: str) -> dict[str, Any]:
        """Return what the study says of one of its tables."""
        return dict(self.told.get("tables", {}).get(table) or {})

    @cached_property
    def told(self) -> dict[str, Any]:
        """What the study says."""
        return evaluation.read_study(self.study or None)

    @cached_property
    def data(self) -> dict[str, Any]:
        """The conversion report."""
        return dict(files.read_json(self.data_report)) if self.data_report else {}

    @property
    def trainings(self) -> list[tuple[str, str, str]]:
        """(variant, model, loss) of each training that was scored."""
        table = self.metrics[["variant", "model", "loss"]].drop_duplicates()
        return list(table.itertuples(index=False, name=None))

    @cached_property
    def jobs(self) -> pd.DataFrame:
        """What each job behind the page cost (see `stainfree.costs`), those of other settings left out."""
        jobs = costs.of_experiment(costs.read_jobs(self.logs), dataset=self.dataset, experiment=self.experiment)
        trained = ["/".join([self.dataset, self.experiment, *names, ""]) for names in self.trainings]
        ours = [
            rule != "report" and (rule not in TRAINING or f"{job}/".startswith(tuple(trained)))
            for rule, job in jobs[["rule", "job"]].values
        ]
        return jobs.loc[ours]

    def _makers(self) -> list[dict[str, Any]]:
        """Say of each job which files it made, and on which machine, by which code and in which Slurm job."""
        made = []
        for rule, job in self.jobs[["rule", "job"]].itertuples(index=False):
            good = attempts.last_good(attempts.read(attempts.record_of(Path(self.logs) / rule / f"{job}.log")))
            if good is not None:
                outputs = [path.removeprefix(f"{self.folder.as_posix()}/") for path in good["outputs"]]
                made.append({"rule": rule, "outputs": outputs, **attempts.made_by(good)})
        return sorted(made, key=lambda one: CHAIN.index(one["rule"]) if one["rule"] in CHAIN else len(CHAIN))

    def _interactive(self) -> list[dict[str, str]]:
        """Return the interactive pages that the run made."""
        return [page for page in interactive_pages(self.folder, self.folder) if self._made(page["href"])]

    @cached_property
    def models(self) -> list[dict[str, Any]]:
        """What ``model.json`` says of each training, in the order of the metrics."""
        paths = [self.folder / variant / model / loss / "model.json" for variant, model, loss in self.trainings]
        return [files.read_json(path) for path in paths if path.is_file()]

    @property
    def variant(self) -> str:
        """The main variant: the one whose figures are drawn."""
        return self.main or str(self.metrics["variant"].iloc[0])

    @property
    def variants(self) -> list[str]:
        """All variants that were scored, the main one first."""
        names = [str(name) for name in self.metrics["variant"].unique()]
        return sorted(names, key=lambda name: name != self.variant)

    @property
    def simulated(self) -> bool:
        """Whether the cells are drawn by the simulator."""
        return bool(self.data.get("kind", self.dataset) == "simulated")

    @property
    def channels(self) -> list[str]:
        """Channels that the models see."""
        return list(self.models[0]["channels"]) if self.models else []

    @property
    def stained(self) -> bool:
        """Whether the models see a stain."""
        return is_stained(self.channels)

    @property
    def classes(self) -> list[str]:
        """Classes in the scheme's order."""
        if self.models:
            return list(self.models[0]["scheme"]["classes"])
        return [name for name in self.metrics["class"].unique() if name != "all"]

    @cached_property
    def published(self) -> dict[str, dict[str, float]]:
        """Model -> subset -> balanced accuracy that the study reports, 0 to 1."""
        return dict(self.told.get("balanced_accuracy", {}))

    @cached_property
    def best(self) -> Pair | None:
        """The pair that the headline shows."""
        published = {model: scores["test"] for model, scores in self.published.items()}
        return best_pair(self.metrics, variant=self.variant, published=published)

    @cached_property
    def recalls(self) -> list[dict[str, Any]]:
        """Recall of each class on test cells by the headline's pair."""
        if self.best is None:
            return []
        where = {"variant": self.variant, "model": self.best.model, "loss": self.best.loss}
        rows = (pick(self.metrics, metric="recall", subset="test", **where, **{"class": name}) for name in self.classes)
        return [row for row in rows if row is not None]

    def _table(self, name: str) -> pd.DataFrame:
        """Read a table of the experiment; an empty one where it was not made."""
        path = self.folder / name
        return pd.read_csv(path) if path.is_file() else pd.DataFrame()

    # --- the sections

    def title(self) -> Html:
        """Name the page, and warn where the cells are simulated."""
        return render(
            "title",
            title=self.told.get("title", words(self.experiment).capitalize()),
            rebuilt=bool(self.told),
            experiment=self.experiment,
            dataset=self.dataset,
            n_cells=self.data.get("n_cells"),
            n_used=self._n_used(),
            channels=self.channels,
            simulated=self.simulated,
        )

    def question(self) -> Html:
        """Say what was asked, in plain words."""
        asked = "Can the stage of the cell cycle that a cell is in be read from its image alone?"
        return render(
            "question",
            question=self.told.get("question", asked),
            classes=self.classes,
            channels=self.channels,
            stained=self.stained,
            citation=self.told.get("citation", ""),
        )

    def headline(self) -> Html:
        """Give the headline number beside the trivial answer and the published one."""
        trivial = trivial_row(self.metrics, variant=self.variant)
        return render(
            "headline",
            best=self.best,
            trivial=trivial,
            recalls=self.recalls,
            verdict=self._verdict(trivial),
            study=self._study_headline(),
            variant=self.variant,
            mean=self._mean_over_seeds(),
            several_losses=self.several_losses,
            several_models=self.metrics.loc[self.metrics["model"] != TRIVIAL, "model"].nunique() > 1,
        )

    def _mean_over_seeds(self) -> dict[str, Any] | None:
        """Return the headline's score as the mean over drawings of the split, where the experiment has that table."""
        name = "tables/over_seeds.csv"
        table = self._table(name) if self._made(name) else pd.DataFrame()
        if table.empty or self.best is None:
            return None
        first = table[table["panel"] == table["panel"].iloc[0]]
        return pick(first, model=self.best.model, loss=self.best.loss, metric="balanced_accuracy")

    def _study_headline(self) -> dict[str, Any] | None:
        """Set the number that the study puts first beside ours of the same model, and the trivial answer's."""
        told = self.told.get("headline")
        if not told:
            return None
        rows = []
        for metric, published in told["metrics"].items():
            where = {"variant": told["variant"], "metric": metric, "subset": "test", "class": evaluation.ALL}
            ours, trivial = (pick(self.metrics, model=model, **where) for model in (told["model"], TRIVIAL))
            if ours is not None and trivial is not None:
                as_fraction = metric in layout.FRACTIONS
                shown = {
                    "ours": layout.number({**ours, "published": published}, as_fraction=as_fraction),
                    "trivial": layout.number(trivial, as_fraction=as_fraction),
                }
                rows.append({"metric": in_words(metric), **shown})
        return {**told, "rows": rows} if rows else None

    @cached_property
    def several_losses(self) -> bool:
        """Whether any model was trained under more than one loss."""
        return bool(self.metrics.groupby(["variant", "model"])["loss"].nunique().max() > 1)

    def _verdict(self, trivial: Mapping[str, Any] | None) -> str:
        """Say whether the headline is better than the trivial answer."""
        if self.best is None or trivial is None:
            return ""
        low, high = self.best.test["ci_low"], self.best.test["ci_high"]
        if low > trivial["value"]:
            return "Its whole interval lies above the trivial answer: the images do tell something."
        if high < trivial["value"]:
            return "Its whole interval lies below the trivial answer."
        return "Its interval holds the trivial answer: these cells do not show that the images tell anything."

    def cells(self) -> Html:
        """Count the cells, and say what was left out and why."""
        present = [stage for stage in STAGES if stage in self.data.get("stages", {})]
        split = self._split()
        names = [name for name in SUBSETS if name in set(split["subset"])] if len(split) else []
        first = split[split["fold"] == split["fold"].min()] if len(split) else split
        notes = self._notes("class_counts")
        marks = notes.caption()  # the first letters
        rows = [self._counted(name, first, names, notes) for name in (self.classes if len(split) else [])]
        return render(
            "data",
            data=self.data,
            stages=present,
            n_padding=sum(self._padding()),
            subsets=rows,
            subset_names=names,
            n_folds=split["fold"].nunique() if len(split) else 0,
            about=self._about("class_counts"),
            marks=marks,
            notes=notes,
        )

    def _counted(self, name: str, split: pd.DataFrame, subsets: Sequence[str], notes: Notes) -> dict[str, Any]:
        """Count a class in each subset of one fold and in all, beside what the study printed."""
        said = self.told.get("class_counts", {}).get(name, {})
        counts = split.loc[split["class"] == name, "subset"].value_counts()
        cells = []
        for subset in [*subsets, evaluation.ALL]:
            is_all = subset == evaluation.ALL
            # Counts of subsets belong to the variant whose split is of the study's own kind.
            is_told = is_all or self.variant == self.told.get("published_variant")
            published = said.get(subset) if is_told else None
            marks = "" if published is None else notes.at(published=True, subset=subset, **{"class": name})
            n = int(counts.sum() if is_all else counts.get(subset, 0))
            cells.append({"n": n, "published": published, "marks": marks})
        return {"class": name, "counts": cells}

    def _n_used(self) -> int:
        """Return how many cells the experiment uses; 0 where there is no split to count."""
        split = self._split()
        return int((split["fold"] == split["fold"].min()).sum()) if len(split) else 0

    def _split(self, variant: str = "") -> pd.DataFrame:
        """Return fold, class and subset of the cells in a variant, of the main one where none is named."""
        name = variant or self.variant
        if name not in self._splits:
            path = self.folder / name / "split.parquet"
            columns = ["fold", "class", "subset"]
            self._splits[name] = pd.read_parquet(path, columns=columns) if path.is_file() else pd.DataFrame()
        return self._splits[name]

    def _padding(self) -> Iterator[int]:
        """Yield the number of padding tiles of each montage."""
        for tiles in self.data.get("padding_tiles", {}).values():
            yield tiles if isinstance(tiles, int) else len(tiles)

    def method(self) -> Html:
        """Say how it was done, with what the study leaves open labelled as assumption."""
        split = self._split()
        parts = [part for about in self.models if about["variant"] == self.variant for part in about["parts"]]
        return render(
            "method",
            n_folds=split["fold"].nunique() if len(split) else 1,
            n_seeds=len({part["seed"] for part in parts}) or 1,
            models=self._model_rows(),
            variants=self._variant_rows(),
            main=self.variant,
            rebuilt=bool(self.told),
            assumptions=[*self.told.get("assumptions", []), *self._own_assumptions()],
            footnotes=self.told.get("footnotes", {}),
        )

    def _own_assumptions(self) -> list[str]:
        """Return what the config says that it takes where nothing is published."""
        return list(_mapping(self.config).get("experiment", {}).get("assumptions", []))

    def searches(self) -> Html:
        """Show which settings were searched, where and how, and what was found; nothing where none were."""
        return render("searches", searches=list(self._searches()))

    def _searches(self) -> Iterator[dict[str, Any]]:
        """Yield each search: what was tried, and the best of it for each fold."""
        for about in self.models:
            folder = self.folder / about["variant"] / about["model"] / about["loss"] / "tuning"
            if not any("tuned" in part for part in about["parts"]) or not (folder / "best.json").is_file():
                continue
            best, trials = files.read_json(folder / "best.json"), pd.read_csv(folder / "trials.csv")
            own = {**about["params"], **(about["recipe"] or {})}
            space = {
                key: values if isinstance(values, list) else f"{values['low']:g} to {values['high']:g}"
                for key, values in best["search"]["space"].items()
            }
            yield {
                **{key: about[key] for key in ("variant", "model", "loss")},
                "metric": in_words(best["search"]["metric"]),
                "epochs": best["search"]["epochs"],
                "n_inner": best["search"]["folds"],
                "keys": [
                    {"name": words(key), "tried": _each(space[key]), "own": _each([own.get(key)])} for key in space
                ],
                "folds": [
                    {**one, "settings": [_each([one["settings"][key]]) for key in space]} for one in best["folds"]
                ],
                "trials": [
                    {**row, "settings": [_each([json.loads(row["settings"])[key]]) for key in space]}
                    for row in trials.sort_values(["fold", "mean"], ascending=[True, False]).to_dict("records")
                ],
            }

    def _variant_rows(self) -> list[dict[str, str]]:
        """Describe each variant as the config does; none where there is one alone."""
        told = _mapping(self.config).get("experiment", {}).get("variants", [])
        if len(told) < 2:
            return []
        return [
            {
                "name": one["name"],
                "split": _plain({key: value for key, value in one["split"].items() if value is not None}),
                "augment": "as in the recipe" if one.get("augment") is None else _plain(one["augment"]) or "none",
                "balance": words(one.get("balance") or "as in the recipe"),
                "models": ", ".join(one.get("models") or []) or "all",
            }
            for one in told
            if one["name"] in self.variants
        ]

    def _model_rows(self) -> list[dict[str, Any]]:
        """Describe each model once, as it was trained in the main variant if it was, with all its losses."""
        rows: dict[str, dict[str, Any]] = {}
        for about in sorted(self.models, key=lambda about: about["variant"] != self.variant):
            crop = f", crops of {about['crop']}" if about.get("crop") else ""
            row = rows.setdefault(
                about["model"],
                {
                    "model": about["model"],
                    "n_parameters": about["n_parameters"],
                    "sees": f"{' + '.join(about['channels'])}, {' × '.join(map(str, about['image_size']))}{crop}",
                    "losses": [],
                    "recipe": _recipe(about.get("recipe") or {}),
                    "start": bool(about.get("init_from")),
                    "folds": self._fewer_folds(about["variant"], about["model"], about["loss"]),
                },
            )
            if about["loss"] not in row["losses"]:
                row["losses"].append(about["loss"])
        order = list(dict.fromkeys(about["model"] for about in self.models))
        return sorted(rows.values(), key=lambda row: order.index(row["model"]))

    def tables(self) -> Html:
        """Show the tables that this study has and others have not, our numbers beside the published ones."""
        found = {}
        for path in sorted(self.folder.glob("tables/*.csv")):
            table = self._table(f"tables/{path.name}") if self._made(f"tables/{path.name}") else pd.DataFrame()
            if layout.is_laid_out(table):
                found[path.stem] = table
        order = [name for name in self.told.get("tables", {}) if name in found]
        shown = []
        for name in [*order, *(name for name in found if name not in order)]:
            about, notes = self._about(name), self._notes(name)
            caption_marks = notes.caption()
            shown.append(
                {
                    "name": name,
                    "paper": about.get("paper") or "",
                    "caption": about.get("caption") or CAPTIONS.get(name) or f"{words(name).capitalize()}.",
                    "marks": caption_marks,
                    "panels": layout.panels(found[name], notes, fractions=about.get("unit") == "fraction"),
                    "notes": notes,
                }
            )
        return render("study_tables", tables=shown, rebuilt=bool(self.told))

    def chosen(self) -> Html:
        """Show one pair per model, the best on validation and the study's own choice, beside the published numbers.

        Where there are several sources, the chosen pairs are shown again, scored over each.
        """
        which = "Each model has one loss."
        if self.several_losses:
            which = "Per model: the loss that is best on validation (shaded)"
            which += ", and the one that the study chose, with what the study reports for it." if self.told else "."
        caption = f"Balanced accuracy, its 95 % interval and the cells behind it. {which}"
        return Html(self._scores(only_chosen=True, caption=caption) + self._scores_by_source())

    def pairs(self) -> Html:
        """Show every model under every loss; nothing where each has one alone, and all are shown already."""
        if not self.several_losses:
            return Html()
        return self._scores(
            only_chosen=False,
            caption="Balanced accuracy of every model under every loss, its 95 % interval and the cells behind it.",
        )

    def _scores(self, *, only_chosen: bool, caption: str) -> Html:
        choice = self._table("tables/chosen_losses.csv")
        notes, about = self._notes("balanced_accuracy"), self._about("balanced_accuracy")
        marks = notes.caption()
        variants = []
        for variant in self.variants:
            rows = [row for row in self._score_rows(variant, choice, notes) if row["marked"] or not only_chosen]
            own = self.metrics[self.metrics["variant"] == variant]
            variants.append({"name": variant, "rows": rows, "protocol": str(own["protocol"].iloc[0])})
        if len({variant["protocol"] for variant in variants}) == 1:
            variants = [{**variant, "protocol": ""} for variant in variants]
        rivals = [one for one in self.told.get("rivals", []) if only_chosen]
        return render(
            "scores",
            variants=variants,
            caption=caption,
            marks=marks,
            paper=about.get("paper") or "",
            only_chosen=only_chosen,
            heading=("One loss per model" if only_chosen else "Every model under every loss")
            if self.several_losses
            else "Balanced accuracy of every model",
            several_losses=self.several_losses,
            rivals=[{**one, "marks": notes.mark([one["footnote"]] if "footnote" in one else [])} for one in rivals],
            subset_names=[name for name in SUBSETS if name in set(self.metrics["subset"])],
            notes=notes,
        )

    def _scores_by_source(self) -> Html:
        """Show the chosen pairs and the trivial answer on the test cells of each source; nothing where there is one."""
        name = "tables/balanced_accuracy_by_source.csv"
        table = self._table(name) if self._made(name) else pd.DataFrame()
        sources = list(table["source"].unique()) if len(table) else []
        if len(sources) < 2:
            return Html()
        table = table[table["chosen"] | (table["model"] == TRIVIAL)].rename(columns={"balanced_accuracy": "value"})
        rows = [
            {"model": model, "loss": loss, "trivial": model == TRIVIAL, "scores": scores.to_dict("index")}
            for (model, loss), scores in table.set_index("source").groupby(["model", "loss"], sort=False)
        ]
        return render("sources", rows=sorted(rows, key=lambda row: row["trivial"]), sources=sources)

    def _score_rows(self, variant: str, choice: pd.DataFrame, notes: Notes) -> Iterator[dict[str, Any]]:
        """Yield one row of scores per pair of a variant, the trivial answer last."""
        own = self.metrics[self.metrics["variant"] == variant]
        pairs = list(own[["model", "loss"]].drop_duplicates().itertuples(index=False))
        for model, loss in sorted(pairs, key=lambda pair: pair[0] == TRIVIAL):
            flags = {name: _flag(choice, name, variant, model, loss) for name in ("chosen", "published")}
            scores = {name: balanced_accuracy(own, subset=name, model=model, loss=loss) for name in SUBSETS}
            yield {
                "model": model,
                "loss": loss,
                **scores,
                "trivial": model == TRIVIAL,
                "chosen": flags["chosen"],
                "by_study": flags["published"],
                "marked": model == TRIVIAL or flags["chosen"] or flags["published"],
                "folds": self._fewer_folds(variant, model, loss),
                # The study's numbers belong to the pair it picked.
                "published": {
                    subset: {"value": value, "marks": notes.at(published=True, model=model, subset=subset)}
                    for subset, value in (self.published.get(model, {}) if flags["published"] else {}).items()
                },
            }

    def figures(self) -> Html:
        """Show every figure with a caption that names the study's own."""
        captions = self.told.get("figures", {})
        drawn = sorted(self.folder.glob("figures/*.svg"))
        found = {path.stem: path for path in drawn if self._made(f"figures/{path.name}")}
        order = [name for name in captions if name in found] + [name for name in found if name not in captions]
        texts = self.told.get("footnotes", {})
        shown = [_figure(found[name], _about_figure(name, captions), texts) for name in order]
        return render("figures", figures=shown, interactive=self._interactive())

    def claims(self) -> Html:
        """Hold the study's claims against our numbers."""
        table = self._table("claims.csv") if self._made("claims.csv") else pd.DataFrame()
        notes = Notes(self.told.get("footnotes", {}))
        placed = {claim["id"]: claim.get("footnotes", []) for claim in self.told.get("claims", [])}
        rows = [
            {**row, "badge": BADGES.get(row["verdict"], "open"), "marks": notes.mark(placed.get(row["id"], []))}
            for row in table.to_dict("records")
        ]
        tally = Counter(row["verdict"] for row in rows)
        verdicts = [f"{n} with the verdict “{verdict}”" for verdict, n in tally.most_common()]
        summary = f"{len(rows)} claims of the study: {', '.join(verdicts)}."
        return render("claims", claims=rows, summary=summary, notes=notes)

    def costs(self) -> Html:
        """Say what each step cost."""
        table = costs.per_rule(self.jobs, order=CHAIN)
        totals = table[["wall_s", "gpu_s", "stopped", "untold"]].sum().to_dict()
        return render("costs", costs=table.to_dict("records"), totals=totals)

    def _training_provenance(self) -> dict[str, Any]:
        """Say what made the trainings; where they were not all made alike, every value that occurs."""
        told = [about.get("provenance", {}) for about in self.models]
        keys = dict.fromkeys(key for one in told for key in one)
        values = {key: list({json.dumps(one[key]): one[key] for one in told if key in one}.values()) for key in keys}
        return {key: found[0] if len(found) == 1 else found for key, found in values.items()}

    def origin(self) -> Html:
        """Say which code, versions, machine and data made the page."""
        weights = {
            f"{about['variant']}, {about['model']}, {about['loss']}": {
                f"fold {part['fold']}, seed {part['seed']}": part["sha256"] for part in about["parts"]
            }
            for about in self.models
        }
        checksums = {"converted cells": self.data.get("content_sha256", ""), **self.data.get("source_checksums", {})}
        makers = self._makers()
        return render(
            "provenance",
            provenance={"This page": _mapping(self.provenance), "Trainings": self._training_provenance()},
            makers=makers,
            packages=_packages(makers),
            checksums={name: value for name, value in checksums.items() if value},
            config=_mapping(self.config),
            weights=weights,
        )

    def limits(self) -> Html:
        """Say, from the numbers themselves, what they support and what not."""
        return render("limits", sentences=list(self._limits()))

    def _limits(self) -> Iterator[str]:
        if self.simulated:
            yield "The cells are simulated. Nothing on this page is evidence about real cells, models or studies."
        for row in self.recalls:
            if not row["n_cells"]:
                yield f"No {row['class']} cell is among the test cells: the balanced accuracy leaves that class out."
            elif row["n_cells"] < FEW_CELLS:
                yield (
                    f"{row['class']} has {int(row['n_cells'])} test cells: one cell more or less moves its recall by "
                    f"{100 / row['n_cells']:.0f} points, and the balanced accuracy by "
                    f"{100 / row['n_cells'] / len(self.classes):.0f}."
                )
        if self.best is not None:
            width = 100 * (self.best.test["ci_high"] - self.best.test["ci_low"])
            yield (
                f"The interval of the headline number is {width:.0f} points wide. Models whose intervals overlap are "
                "not ranked by this page."
            )
        yield from self._limits_of_choice()
        for source, counts in self.data.get("counts", {}).items():
            if len(counts) == 1 and len(self.data["counts"]) > 1:
                (stage, n), *_ = counts.items()
                yield (
                    f"The {count(n)} cells of {source} are all {stage}: what tells that acquisition from the others "
                    f"cannot be parted from what tells {stage}."
                )
        if self.published or self.told.get("headline"):
            yield (
                "The published numbers come from another split, and mostly from other cells, without intervals; a "
                "difference of a few points between them and ours means nothing."
            )
        if self.stained:
            yield (
                "The models see the stain that the labels G1, S and G2 were read from: part of the task is to read the "
                "label back. These scores must not be compared with stain-free ones."
            )
        fewer = [row for row in self._model_rows() if row["folds"]]
        if fewer:
            named = ", ".join(f"{row['model']} ({row['folds']})" for row in fewer)
            yield (
                f"Not all models ran on all folds: {named}. Their numbers are of fewer test cells than those beside "
                "them."
            )

    def _limits_of_choice(self) -> Iterator[str]:
        """Yield what choosing a loss on few validation cells, and a single split or seed, do to the numbers."""
        if self.best is not None and not is_missing(self.best.validation["n_cells"]):
            yield (
                f"{'Losses are' if self.several_losses else 'The model of the headline is'} chosen on "
                f"{count(self.best.validation['n_cells'])} validation cells, in which rare classes are rarer still; "
                "another draw could choose otherwise."
            )
        parts = {(part["fold"], part["seed"]) for about in self.models for part in about["parts"]}
        if len(parts) == 1:
            yield (
                "There is one split and one seed. The intervals cover the draw of the test cells, not that of the "
                "training cells or of the first weights."
            )


def _packages(makers: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the version of each package that the jobs ran on; all of them where they were not alike."""
    versions: dict[str, set[str]] = {}
    for made in makers:
        for name, version in {"Python": made["python"], **made["packages"]}.items():
            versions.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(found)) for name, found in sorted(versions.items())}


def _plain(value: Any) -> str:
    """Write a value of a recipe or of a split."""
    if isinstance(value, Mapping):
        return ", ".join(words(key) if one is True else f"{words(key)} {_plain(one)}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else f"{value}"


def _each(values: Any) -> str:
    """Write the settings of a list; a list among them is one setting. What is already written stays as it is."""
    if isinstance(values, str):
        return values
    written = ("-".join(map(str, value)) if isinstance(value, list | tuple) else value for value in values)
    return ", ".join(
        "–" if value is None else f"{value:.3g}" if isinstance(value, float) else f"{value}" for value in written
    )


def _flag(choice: pd.DataFrame, column: str, variant: str, model: str, loss: str) -> bool:
    """Return a flag of ``chosen_losses.csv`` for one pair."""
    if choice.empty:
        return False
    own = choice[(choice["variant"] == variant) & (choice["model"] == model) & (choice["loss"] == loss)]
    return bool(own[column].any())


def _recipe(told: Mapping[str, Any]) -> str:
    """Write a recipe, without what goes without saying."""
    return _plain({key: value for key, value in told.items() if value not in UNTOLD and value != USUAL.get(key)})


def _about_figure(name: str, told: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is said of a figure: by the study, or of its kind, the longest name that its own begins with."""
    if name in told:
        return dict(told[name])
    kinds = {**{kind: {"caption": caption} for kind, caption in CAPTIONS.items()}, **told}
    kind = max((kind for kind in kinds if f"{name}_".startswith(f"{kind}_")), key=len, default="")
    if not kind:
        return {"caption": f"{words(name).capitalize()}."}
    rest = words(name.removeprefix(kind).removeprefix("_"))
    caption = kinds[kind]["caption"]
    return {**kinds[kind], "caption": f"{caption.removesuffix('.')}: {rest}." if rest else caption}


def _figure(path: Path, about: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """Return a figure as its template wants it; `texts` are the study's footnotes."""
    notes = Notes(texts, about.get("footnotes", ()))
    return {
        "marks": notes.caption(),
        "notes": notes,
        "name": path.stem,
        "source": data_uri(path),
        "alt": words(path.stem),
        "paper": str(about.get("paper") or ""),
        "caption": about["caption"],
    }
