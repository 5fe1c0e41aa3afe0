"""The datasets this project can read: their terms, where they come from, and the function that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_engine import simulated
from data_engine.sources import (
    bigearthnet,
    bigearthnet_mini,
    bigearthnet_txt,
    captioned,
    changechat,
    chatearthnet,
    coco,
    crisislandmark,
    dior,
    dior_rsvg,
    dota,
    dsifn,
    folder,
    gaia,
    hls_worldcover,
    kuro_siwo,
    levir_cc,
    nwpu_captions,
    nwpu_vhr10,
    ombria,
    refgeo,
    rrsis_d,
    rsicd,
    rsteller,
    rsvqa,
    rswk,
    sarlang,
    sen1floods11,
    sen12ms,
    skyscript,
    so2sat,
    star,
    vrsbench,
    xlrs_bench,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from data_engine.annotated import Annotated

RESEARCH = "research use; the publishers state no licence"


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset layout and how to read it."""

    title: str
    terms: str
    where: str
    read: Callable[[Path], Iterator[Annotated]]


CATALOGUE: dict[str, Dataset] = {
    "bigearthnet-mini": Dataset(
        "BigEarthNet, a few Sentinel-1 and Sentinel-2 pairs as arrays",
        "CDLA-Permissive-1.0",
        "bigearth.net",
        bigearthnet_mini.read,
    ),
    "bigearthnet-txt": Dataset(
        "BigEarthNet.txt: captions, questions and boxes on BigEarthNet v2",
        "CDLA-Permissive-1.0",
        "huggingface.co/datasets/BIFOLD-BigEarthNetv2-0/BigEarthNet.txt",
        bigearthnet_txt.read,
    ),
    "bigearthnet-v1": Dataset(
        "BigEarthNet v1, Sentinel-1 and Sentinel-2 patches with 43 or 19 classes",
        "CDLA-Permissive-1.0",
        "bigearth.net",
        bigearthnet.read_v1,
    ),
    "bigearthnet-v2": Dataset(
        "Refined BigEarthNet (reBEN) with CORINE reference maps",
        "CDLA-Permissive-1.0",
        "bigearth.net, zenodo.org/records/10891137",
        bigearthnet.read_v2,
    ),
    "changechat": Dataset(
        "ChangeChat-87k: change questions and captions on LEVIR-CC and LEVIR-MCI",
        "annotations CC-BY 4.0, images academic use",
        "github.com/hanlinwu/ChangeChat",
        changechat.read,
    ),
    "chatearthnet": Dataset(
        "ChatEarthNet: Sentinel-2 chips described from WorldCover",
        "CC-BY 4.0",
        "doi.org/10.5281/zenodo.11003436",
        chatearthnet.read,
    ),
    "chatearthnet-9": Dataset(
        "ChatEarthNet with nine bands",
        "CC-BY 4.0",
        "doi.org/10.5281/zenodo.11003436",
        chatearthnet.read_nine_bands,
    ),
    "coco": Dataset(
        "Any detections in COCO form",
        "those of the dataset",
        "cocodataset.org/#format-data",
        coco.read,
    ),
    "crisislandmark": Dataset(
        "CrisisLandMark: Sentinel-1 and Sentinel-2 land cover and disasters",
        "CC-BY-NC 4.0",
        "huggingface.co/datasets/DarthReca/crisislandmark",
        crisislandmark.read,
    ),
    "dior": Dataset(
        "DIOR detections, upright boxes",
        "research use",
        "gcheng-nwpu.github.io",
        dior.read,
    ),
    "dior-r": Dataset(
        "DIOR-R detections, oriented boxes",
        "research use",
        "gcheng-nwpu.github.io",
        dior.read_oriented,
    ),
    "dior-rsvg": Dataset(
        "DIOR-RSVG referring expressions",
        RESEARCH,
        "github.com/ZhanYang-nwpu/RSVG-pytorch",
        dior_rsvg.read,
    ),
    "dota": Dataset(
        "DOTA 1.0, 1.5 and 2.0 oriented objects",
        "academic use only",
        "captain-whu.github.io/DOTA",
        dota.read,
    ),
    "dsifn": Dataset(
        "DSIFN bi-temporal pairs with change masks",
        "research use",
        "github.com/GeoZcx/A-deeply-supervised-image-fusion-network-for-change-detection-in-remote-sensing-images",
        dsifn.read,
    ),
    "folder": Dataset(
        "Your own folder of GeoTIFFs with a land-cover raster, polygons or captions",
        "yours",
        "rsvlm-data.toml in the folder says what is what",
        folder.read,
    ),
    "gaia": Dataset(
        "GAIA: captions and tags on images of many sensors",
        "MIT; pictures keep the terms of their publishers",
        "huggingface.co/datasets/azavras/GAIA",
        gaia.read,
    ),
    "hls_worldcover": Dataset(
        "HLS chips with ESA WorldCover classes",
        "chips stated MIT, WorldCover CC-BY 4.0",
        "esa-worldcover.org and the NASA HLS archive",
        hls_worldcover.read,
    ),
    "kuro-siwo": Dataset(
        "Kuro Siwo floods, Sentinel-1 before and after",
        "not stated where looked",
        "github.com/Orion-AI-Lab/KuroSiwo",
        kuro_siwo.read,
    ),
    "levir-cc": Dataset(
        "LEVIR-CC change captions",
        "academic use",
        "github.com/Chen-Yang-Liu/RSICC",
        levir_cc.read_cc,
    ),
    "levir-mci": Dataset(
        "LEVIR-MCI change captions with masks of roads and buildings",
        "academic use",
        "huggingface.co/datasets/lcybuaa/LEVIR-MCI",
        levir_cc.read_mci,
    ),
    "nwpu-captions": Dataset(
        "NWPU-Captions on NWPU-RESISC45",
        RESEARCH,
        "github.com/HaiyanHuang98/NWPU-Captions",
        nwpu_captions.read,
    ),
    "nwpu_vhr10": Dataset(
        "NWPU VHR-10 objects with referring expressions",
        "research use",
        "github.com/Gaoshuaikun/NWPU-VHR-10",
        nwpu_vhr10.read,
    ),
    "ombria": Dataset(
        "OMBRIA flood events, Sentinel-1 and Sentinel-2 before and after",
        "Copernicus imagery, EMS masks",
        "github.com/geodrak/OMBRIA",
        ombria.read,
    ),
    "ombria-published": Dataset(
        "OMBRIA as its repository lays it out",
        "Copernicus imagery, EMS masks",
        "github.com/geodrak/OMBRIA",
        ombria.read_published,
    ),
    "refgeo": Dataset(
        "refGeo: five sets of referring expressions in one form",
        "those of its parts",
        "github.com/zytx121/GeoGround",
        refgeo.read,
    ),
    "rrsis-d": Dataset(
        "RRSIS-D referring expressions with outlines",
        RESEARCH,
        "github.com/Lsan2401/RMSIN",
        rrsis_d.read,
    ),
    "rsicd": Dataset(
        "RSICD captions on AID images",
        "research use; imagery of Google-Earth type",
        "github.com/201528014227051/RSICD_optimal",
        rsicd.read,
    ),
    "rsicd-published": Dataset(
        "RSICD captions as published",
        "research use; Google Earth, Baidu Map, MapABC and Tianditu imagery",
        "github.com/201528014227051/RSICD_optimal",
        captioned.read_rsicd,
    ),
    "rsitmd": Dataset(
        "RSITMD fine-grained captions; its training part holds images of RSICD's test part",
        RESEARCH,
        "github.com/xiaoyuan1996/AMFMN",
        captioned.read_rsitmd,
    ),
    "rsteller": Dataset(
        "RSTeller: NAIP patches with captions",
        "Apache-2.0",
        "huggingface.co/datasets/SlytherinGe/RSTeller",
        rsteller.read,
    ),
    "rsvqa-hr": Dataset(
        "RSVQA high resolution, questions on aerial images",
        "CC-BY 4.0",
        "rsvqa.sylvainlobry.com",
        rsvqa.read_hr,
    ),
    "rsvqa-hr-philadelphia": Dataset(
        "RSVQA high resolution with Philadelphia as test part",
        "CC-BY 4.0",
        "rsvqa.sylvainlobry.com",
        rsvqa.read_hr_philadelphia,
    ),
    "rsvqa-lr": Dataset(
        "RSVQA low resolution, questions on Sentinel-2",
        "CC-BY 4.0",
        "rsvqa.sylvainlobry.com",
        rsvqa.read_lr,
    ),
    "rsvqaxben": Dataset(
        "RSVQAxBEN, questions on BigEarthNet",
        "CC-BY 4.0",
        "rsvqa.sylvainlobry.com",
        rsvqa.read_xben,
    ),
    "rswk": Dataset(
        "RSWK: landmarks with world knowledge",
        RESEARCH,
        "github.com/CongcongWen1208/RS-RAG",
        rswk.read,
    ),
    "sarlang-1m": Dataset(
        "SARLANG-1M: SAR captions and questions",
        RESEARCH,
        "huggingface.co/datasets/YiminJimmy/SARLANG-1M",
        sarlang.read,
    ),
    "sen12ms": Dataset(
        "SEN12MS: Sentinel-1, Sentinel-2 and MODIS land cover",
        "CC-BY 4.0",
        "mediatum.ub.tum.de/1474000",
        sen12ms.read,
    ),
    "sen1floods11": Dataset(
        "Sen1Floods11 1.1, hand-labelled surface water",
        "Copernicus imagery; no licence stated for the labels",
        "github.com/cloudtostreet/Sen1Floods11",
        sen1floods11.read,
    ),
    "simulated": Dataset(
        "Simulated places of known truth",
        "Apache-2.0, like the code that makes them",
        "rsvlm data build with simulated = N",
        simulated.read,
    ),
    "skyscript": Dataset(
        "SkyScript: captions from OpenStreetMap tags",
        "not stated where looked",
        "github.com/wangzhecheng/SkyScript",
        skyscript.read,
    ),
    "so2sat-lcz42": Dataset(
        "So2Sat LCZ42: local climate zones from Sentinel-1 and Sentinel-2",
        "CC-BY 4.0",
        "doi.org/10.14459/2018mp1454690",
        so2sat.read,
    ),
    "star": Dataset(
        "STAR scene graphs: objects and how they relate",
        "not stated where looked",
        "huggingface.co/datasets/Zhuzi24/STAR",
        star.read,
    ),
    "sydney-captions": Dataset(
        "Sydney-Captions",
        "research use; Google Earth imagery",
        "github.com/201528014227051/RSICD_optimal",
        captioned.read_sydney,
    ),
    "ucm-captions": Dataset(
        "UCM-Captions on UC Merced images",
        "research use; USGS imagery",
        "github.com/201528014227051/RSICD_optimal",
        captioned.read_ucm,
    ),
    "vrsbench": Dataset(
        "VRSBench captions, questions and referring boxes",
        "CC-BY 4.0",
        "vrsbench.github.io",
        vrsbench.read,
    ),
    "xlrs-bench": Dataset(
        "XLRS-Bench questions on ultra-large scenes",
        RESEARCH,
        "xlrs-bench.github.io",
        xlrs_bench.read,
    ),
}
