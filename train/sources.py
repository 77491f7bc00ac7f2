"""Sources: where smear pictures come from, a row per data set.

A row names a data set's reader, what must be known to prepare its pictures, and its authors' terms. The readers are in
`train.source_readers` and `train.annotation_readers`; what their labels mean is for `train.tasks` to say. A new source
is a reader and a row. `bccd` is in no task: its boxes tell white cells from red ones and platelets, but not the types
of white cells apart; ``benchmarks.cell_finder`` judges the finder of cells by them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import annotation_readers, source_readers
from .source_readers import Found


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        name: folder name under the data folder, and the value of the index's ``source`` column.
        title: full name.
        read: lists samples, and remarks on what is no sample, below the source's root folder.
        central_px: single-cell pictures larger than this are cut to their central square of this side, so that
            cells have one scale, about 26 micrometres; None: whole picture.
        burnt_in: (left, top, width, height), shares of the side, of a mark burnt into every picture; blanked in
            training so that it cannot be learnt. None: no such mark.
        licence: terms of the authors.
        citation: DOI or the like.
        cut_from: source whose pictures these were cut out of; an index holds one of the two only, for no split could
            keep them apart. None: none.
    """

    name: str
    title: str
    read: Callable[[Path], Found]
    central_px: int | None
    burnt_in: tuple[float, float, float, float] | None
    licence: str
    citation: str
    cut_from: str | None = None


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "taleqani",
            "Acute Lymphoblastic Leukemia (ALL) image dataset, Taleqani Hospital",
            source_readers.read_taleqani,
            None,
            (0.80, 0.84, 0.20, 0.16),
            "as on its Kaggle page; cite",
            "Aria et al. 2021, doi:10.34740/KAGGLE/DSV/2175623",
        ),
        Source(
            "c_nmc",
            "C-NMC 2019: normal and leukemic B-lymphoid cells on black, AIIMS New Delhi",
            annotation_readers.read_c_nmc,
            None,
            None,
            "as on TCIA; cite",
            "Gupta & Gupta 2019, doi:10.7937/tcia.2019.dc64i46r",
        ),
        Source(
            "all_idb1",
            "ALL-IDB1: fields of ALL patients and others, Milan",
            source_readers.read_all_idb1,
            None,
            None,
            "on request from the authors; not to be passed on",
            "Labati, Piuri & Scotti 2011, doi:10.1109/ICIP.2011.6115881",
        ),
        Source(
            "all_idb2",
            "ALL-IDB2: single cells cut out of ALL-IDB1, Milan",
            source_readers.read_all_idb2,
            None,
            None,
            "on request from the authors; not to be passed on",
            "Labati, Piuri & Scotti 2011, doi:10.1109/ICIP.2011.6115881",
            cut_from="all_idb1",
        ),
        Source(
            "deepapl",
            "DeepAPL: AML and APL, CellaVision single cells, Johns Hopkins",
            annotation_readers.read_deepapl,
            256,
            None,
            "copyright Johns Hopkins University; research use",
            "Sidhom et al. 2021, doi:10.1038/s41698-021-00179-y",
        ),
        Source(
            "lmu",
            "AML-Cytomorphology LMU: AML patients and controls, single cells, Munich",
            source_readers.read_lmu,
            360,  # of 400 px, which are about 29 micrometres
            None,
            "CC BY 3.0",
            "Matek et al. 2019, doi:10.7937/tcia.2019.36f5o9ld",
        ),
        Source(
            "pbc",
            "PBC: normal peripheral blood cells, CellaVision single cells, Barcelona",
            source_readers.read_pbc,
            256,
            None,
            "CC BY 4.0",
            "Acevedo et al. 2020, doi:10.1016/j.dib.2020.105474",
        ),
        Source(
            "raabin",
            "Raabin-WBC: normal leukocytes labelled by two experts, two microscopes, Tehran",
            source_readers.read_raabin,
            None,
            None,
            "as on raabindata.com; cite",
            "Kouzehkanan et al. 2022, doi:10.1038/s41598-021-04426-x",
        ),
        Source(
            "segmentation_wbc",
            "White blood cells with expert nucleus and cytoplasm masks, data set 2",
            annotation_readers.read_segmentation_wbc,
            256,  # of 300 px; nuclei in pixels are as large as in CellaVision crops (mean, about 1.03, 5 types)
            None,
            "GPL-3.0 repository; at your own risk",
            "Zheng et al. 2018, doi:10.1016/j.micron.2018.01.010",
        ),
        Source(
            "leukemia_attri",
            "LeukemiaAttri: fields of ALL, AML, APML, CLL and CML patients with boxed cells, Lahore",
            annotation_readers.read_leukemia_attri,
            None,
            None,
            "CC BY-NC-SA 4.0",
            "Rehman et al. 2024, arXiv:2405.10803",
        ),
        Source(
            "bccd",
            "BCCD: blood cell count and detection, fields with boxes of cells without types; in no task",
            annotation_readers.read_bccd,
            None,
            None,
            "MIT",
            "BCCD data set (Shenggan), 2017",
        ),
        Source(
            "folder",
            "Your own pictures, a folder per class and, where you know them, a folder per patient in it",
            source_readers.read_folder,
            None,
            None,
            "yours",
            "none",
        ),
        Source(
            "rendered",
            "Rendered smears of this project's own renderer; for trials and tests, no evidence about real cells",
            source_readers.read_rendered,
            None,
            None,
            "Apache-2.0",
            "leukoscope train.render",
        ),
    )
}
